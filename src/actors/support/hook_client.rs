//! Makes the calls of hooks, so that no endpoint can cost more than its share of time, memory and places.

use std::{
    collections::HashMap,
    error::Error,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{Client, Method, header, redirect::Policy};
use tokio::{
    runtime::{Builder, Handle},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};

use super::hook_call::{HookAnswer, HookCall, HookError, read_header};

/// Cheap to clone: all clones share connections, places and counts.
#[derive(Clone)]
pub struct HookClient(Arc<Shared>);

struct Shared {
    /// Calls have threads of their own: what an endpoint floods us with must keep neither an arbiter busy nor other calls.
    threads: OnceLock<Option<Handle>>,
    plain: OnceLock<Option<Client>>,
    /// Made when it is first needed: it reads the certificates of the system.
    secure: OnceLock<Option<Client>>,
    /// Questions of all endpoints, and of each of them: one that hangs leaves places for the others.
    places: Arc<Semaphore>,
    endpoints: Mutex<HashMap<String, Endpoint>>,
    waiting: AtomicUsize,
    crowded: AtomicU64,
    ending: watch::Sender<bool>,
}

#[derive(Clone)]
struct Endpoint {
    places: Arc<Semaphore>,
    calls: Calls,
}

/// How calls to an endpoint went.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    pub asked: u64,
    pub failed: u64,
    pub last_error: Option<String>,
}

impl Default for HookClient {
    fn default() -> Self {
        Self(Arc::new(Shared {
            threads: OnceLock::new(),
            plain: OnceLock::new(),
            secure: OnceLock::new(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            endpoints: Mutex::default(),
            waiting: AtomicUsize::new(0),
            crowded: AtomicU64::new(0),
            ending: watch::Sender::new(false),
        }))
    }
}

impl HookClient {
    /// Asks, as soon as there is a place for the question.
    pub async fn ask(&self, call: &HookCall) -> Result<HookAnswer, HookError> {
        let mut ending = self.0.ending.subscribe();
        tokio::select! {
            answer = self.ask_in_turn(call) => answer,
            _ = ending.wait_for(|ending| *ending) => Err(HookError::Ending),
        }
    }

    /// Calls at once: who calls bounds how many do.
    pub async fn call(&self, call: &HookCall) -> Result<HookAnswer, HookError> {
        self.exchange(call, Vec::new()).await
    }

    /// Whoever asks or will ask is answered at once that the server is ending.
    pub fn stop_asking(&self) {
        self.0.ending.send_replace(true);
    }

    /// Questions that wait for a place.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// Questions that found too many others waiting.
    pub fn crowded(&self) -> u64 {
        self.0.crowded.load(Ordering::Relaxed)
    }

    pub fn calls(&self) -> Vec<(String, Calls)> {
        let endpoints = self.0.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.iter().map(|(name, endpoint)| (name.clone(), endpoint.calls.clone())).collect()
    }

    async fn ask_in_turn(&self, call: &HookCall) -> Result<HookAnswer, HookError> {
        let queued = Queued::enter(&self.0)?;
        let lane = self.with_endpoint(call, |endpoint| Arc::clone(&endpoint.places));
        let all = Arc::clone(&self.0.places);
        let places = async {
            let own = lane.acquire_owned().await.ok()?;
            Some(vec![own, all.acquire_owned().await.ok()?])
        };
        let Ok(Some(places)) = timeout(call.timeout, places).await else {
            self.0.crowded.fetch_add(1, Ordering::Relaxed);
            return Err(HookError::Crowded);
        };
        drop(queued);
        self.exchange(call, places).await
    }

    /// One call with all it may take. `places` are held until its connection is of use again.
    async fn exchange(&self, call: &HookCall, places: Vec<OwnedSemaphorePermit>) -> Result<HookAnswer, HookError> {
        let outcome = match self.0.threads.get_or_init(start_threads) {
            Some(threads) => {
                let (client, asked) = (self.clone(), call.clone());
                let mut task = Task(threads.spawn(async move { client.converse(&asked, places).await }));
                match timeout(call.timeout, &mut task.0).await {
                    Ok(answered) => answered.unwrap_or(Err(HookError::Ending)),
                    Err(_) => Err(HookError::Timeout),
                }
            }
            None => Err(HookError::Refused("no threads to ask on".to_owned())),
        };
        self.with_endpoint(call, |endpoint| {
            endpoint.calls.asked += 1;
            if let Err(error) = &outcome {
                endpoint.calls.failed += 1;
                endpoint.calls.last_error = Some(error.to_string());
            }
        });
        outcome
    }

    async fn converse(&self, call: &HookCall, places: Vec<OwnedSemaphorePermit>) -> Result<HookAnswer, HookError> {
        let (answer, rest) = self.send(call).await?;
        // The body says nothing to us. A short one is read, so that the connection serves the next call; a long one costs it.
        tokio::spawn(async move {
            let _ = timeout(LAST_BYTES, drain(rest)).await;
            drop(places);
        });
        Ok(answer)
    }

    async fn send(&self, call: &HookCall) -> Result<(HookAnswer, reqwest::Response), HookError> {
        let is_secure = call.url.starts_with("https:");
        let client = if is_secure { self.0.secure.get_or_init(secure) } else { self.0.plain.get_or_init(plain) };
        let Some(client) = client else {
            return Err(HookError::Refused("no certificates of the system to check it by".to_owned()));
        };
        let method = if call.body.is_some() { Method::POST } else { Method::GET };
        let url = reqwest::Url::parse(&call.url).map_err(|error| HookError::Garbage(error.to_string()))?;
        // What is signed is what the request line says.
        let sent = HookCall { url: url.as_str().to_owned(), ..call.clone() };
        let mut request = client.request(method, url);
        let now = jiff::Timestamp::now().as_second();
        if let Some(signature) = sent.signature(now) {
            request = request.header("X-Livemill-Timestamp", now).header("X-Livemill-Signature", signature);
        }
        if let Some(body) = &call.body {
            request = request.header(header::CONTENT_TYPE, body.content_type).body(body.bytes.clone());
        }
        let response = request.send().await.map_err(|error| fault(&error))?;
        let said = |name: &str| response.headers().get(name).map(|value| read_header(value.as_bytes())).transpose();
        let status = response.status().as_u16();
        // Where it matters where to, it must make sense.
        let location = if status / 100 == 3 { said("location")? } else { None };
        let answer = HookAnswer {
            status,
            location,
            domain: said("domain")?,
            peer: response.remote_addr().map(|peer| peer.ip()),
        };
        Ok((answer, response))
    }

    fn with_endpoint<T>(&self, call: &HookCall, act: impl FnOnce(&mut Endpoint) -> T) -> T {
        let mut endpoints = self.0.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let name = call.endpoint();
        if endpoints.len() >= MAX_ENDPOINTS && !endpoints.contains_key(name) {
            endpoints.clear();
        }
        let fresh = || Endpoint { places: Arc::new(Semaphore::new(AT_ONCE_EACH)), calls: Calls::default() };
        act(endpoints.entry(name.to_owned()).or_insert_with(fresh))
    }
}

/// A call under way; it ends when nobody waits for it any more.
struct Task(JoinHandle<Result<HookAnswer, HookError>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A question that waits for its place.
struct Queued<'a>(&'a Shared);

impl<'a> Queued<'a> {
    fn enter(shared: &'a Shared) -> Result<Self, HookError> {
        if shared.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            shared.waiting.fetch_sub(1, Ordering::Relaxed);
            shared.crowded.fetch_add(1, Ordering::Relaxed);
            return Err(HookError::Crowded);
        }
        Ok(Self(shared))
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn drain(mut rest: reqwest::Response) {
    let mut read = 0;
    while let Ok(Some(bytes)) = rest.chunk().await {
        read += bytes.len();
        if read > MAX_BODY {
            return;
        }
    }
}

/// Started with the first call; they last as long as the process.
fn start_threads() -> Option<Handle> {
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).thread_name("hooks").enable_all().build().ok()?;
    let handle = runtime.handle().clone();
    // Dropped, it would end them.
    std::mem::forget(runtime);
    Some(handle)
}

fn secure() -> Option<Client> {
    builder().https_only(true).build().ok()
}

/// Without a look at certificates: it never needs them.
fn plain() -> Option<Client> {
    builder().tls_certs_only([]).build().ok()
}

fn builder() -> reqwest::ClientBuilder {
    Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .http1_only()
        .tcp_nodelay(true)
        .pool_idle_timeout(KEEP_IDLE)
        .pool_max_idle_per_host(AT_ONCE_EACH)
        .user_agent(concat!("livemill/", env!("CARGO_PKG_VERSION")))
}

/// What went wrong, in the words of whoever knows best.
fn fault(error: &reqwest::Error) -> HookError {
    let mut cause: &dyn Error = error;
    let mut told = cause.to_string();
    let mut is_io = false;
    while let Some(deeper) = cause.source() {
        cause = deeper;
        told = cause.to_string();
        is_io |= cause.is::<std::io::Error>();
    }
    if error.is_timeout() {
        HookError::Timeout
    } else if error.is_builder() {
        HookError::Garbage(told)
    } else if error.is_connect() || is_io || told.contains("connection closed") {
        HookError::Refused(told)
    } else if told.contains("too large") {
        HookError::TooMuch
    } else {
        HookError::Garbage(told)
    }
}

/// One that reads a flood of interim answers is busy with it for as long as the call may take; the others go on.
const THREADS: usize = 4;

/// Questions under way, over all endpoints.
const AT_ONCE: usize = 64;

/// The same at one endpoint.
const AT_ONCE_EACH: usize = 48;

/// Questions that wait for a place; more are the failure that each of them stands for.
const MAX_WAITING: usize = 1000;

/// Endpoints whose calls are counted; addresses of hooks are written in a file, so this is never reached.
const MAX_ENDPOINTS: usize = 1024;

/// A connection nobody used for this long is not used again: the other end may be closing it at this moment, and servers
/// that keep connections keep them for two seconds at least.
const KEEP_IDLE: Duration = Duration::from_secs(1);

/// What is read of a body, and for how long.
const MAX_BODY: usize = 64 << 10;
const LAST_BYTES: Duration = Duration::from_secs(1);
