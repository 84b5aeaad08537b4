//! Calls that must be heard: who is told next, and when one that was not heard is told again.
//!
//! Each endpoint has a line of its own. While it answers, several are told at a time; once it does not, one is tried
//! alone, ever less often, until it answers again.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::hook_call::HookCall;

/// Everything that has not been heard yet.
#[derive(Default)]
pub struct Errands {
    lines: HashMap<String, Line>,
    waiting: usize,
}

/// The calls of one end of a session, the first of them next: their order is kept.
#[derive(Debug)]
pub struct Errand {
    calls: VecDeque<HookCall>,
    since: Duration,
}

/// What has become of the words for one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub waiting: usize,
    pub delivered: u64,
    pub lost: u64,
}

#[derive(Default)]
struct Line {
    queue: VecDeque<Errand>,
    under_way: usize,
    /// Failures in a row.
    failures: u32,
    next_try: Duration,
    delivered: u64,
    lost: u64,
}

impl Errand {
    pub fn call(&self) -> Option<&HookCall> {
        self.calls.front()
    }
}

impl Errands {
    /// Takes on what is to be told. False: too much waits already, and these are lost.
    pub fn add(&mut self, calls: Vec<HookCall>, now: Duration) -> bool {
        let errand = Errand { calls: calls.into(), since: now };
        let Some(endpoint) = errand.call().map(|call| call.endpoint().to_owned()) else { return true };
        if !self.lines.contains_key(&endpoint) && self.lines.len() >= MAX_LINES {
            self.lines.retain(|_, line| !line.queue.is_empty() || line.under_way > 0);
        }
        let is_full = self.waiting >= MAX_WAITING;
        let line = self.lines.entry(endpoint).or_default();
        if is_full {
            line.lost += errand.calls.len() as u64;
            return false;
        }
        self.waiting += 1;
        line.queue.push_back(errand);
        true
    }

    /// What is to be told now; come back with [`Self::heard`] or [`Self::not_heard`].
    pub fn next(&mut self, now: Duration) -> Option<Errand> {
        let ready = |line: &&mut Line| line.ready_at().is_some_and(|at| at <= now);
        let line = self.lines.values_mut().find(ready)?;
        line.under_way += 1;
        line.queue.pop_front()
    }

    /// When there will be something to tell, if nothing else happens.
    pub fn due(&self) -> Option<Duration> {
        self.lines.values().filter_map(Line::ready_at).min()
    }

    /// The first call of this errand was heard; those behind it come next.
    pub fn heard(&mut self, mut errand: Errand) {
        let Some(told) = errand.calls.pop_front() else { return };
        let line = self.line_of(&told);
        line.under_way = line.under_way.saturating_sub(1);
        line.failures = 0;
        line.delivered += 1;
        match errand.call().cloned() {
            Some(next) => self.line_of(&next).queue.push_front(errand),
            None => self.waiting = self.waiting.saturating_sub(1),
        }
    }

    /// It was not: it is told again. False: it is too old, and lost. `jitter` is from 0 to 1.
    pub fn not_heard(&mut self, errand: Errand, now: Duration, jitter: f64) -> bool {
        let Some(call) = errand.call().cloned() else { return true };
        let line = self.line_of(&call);
        line.under_way = line.under_way.saturating_sub(1);
        let wait = FIRST_WAIT.saturating_mul(1 << line.failures.min(MAX_DOUBLINGS)).min(LONGEST_WAIT);
        line.failures = line.failures.saturating_add(1);
        line.next_try = now + wait / 2 + (wait / 2).mul_f64(jitter.clamp(0.0, 1.0));
        let is_lost = now.saturating_sub(errand.since) >= MAX_AGE;
        if is_lost {
            line.lost += errand.calls.len() as u64;
            self.waiting = self.waiting.saturating_sub(1);
        } else {
            line.queue.push_front(errand);
        }
        !is_lost
    }

    /// Nobody is waited for any longer: all are tried at once, one more time.
    pub fn hurry(&mut self, now: Duration) {
        for line in self.lines.values_mut() {
            line.next_try = now;
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn tallies(&self) -> impl Iterator<Item = (&str, Tally)> {
        self.lines.iter().map(|(endpoint, line)| {
            let waiting = line.queue.len() + line.under_way;
            (endpoint.as_str(), Tally { waiting, delivered: line.delivered, lost: line.lost })
        })
    }

    fn line_of(&mut self, call: &HookCall) -> &mut Line {
        // The endpoints of errands that are here come from the configuration: there are as many as were written.
        self.lines.entry(call.endpoint().to_owned()).or_default()
    }
}

impl Line {
    /// When its next errand may go; none: nothing waits, or an answer comes first.
    fn ready_at(&self) -> Option<Duration> {
        let at_once = if self.failures > 0 { 1 } else { AT_ONCE };
        (!self.queue.is_empty() && self.under_way < at_once).then_some(if self.failures > 0 {
            self.next_try
        } else {
            Duration::ZERO
        })
    }
}

/// Errands that wait for all endpoints together.
const MAX_WAITING: usize = 1000;

/// Endpoints that are remembered while nothing waits for them.
const MAX_LINES: usize = 256;

/// Calls to one endpoint at a time.
const AT_ONCE: usize = 8;

const FIRST_WAIT: Duration = Duration::from_secs(1);

const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What was not heard in this time is of no use any more.
const MAX_AGE: Duration = Duration::from_secs(600);

/// More would overflow, and the ceiling is long reached.
const MAX_DOUBLINGS: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn call(url: &str) -> HookCall {
        let url = url.to_owned();
        HookCall { event: "done", url, body: None, timeout: Duration::from_secs(1), secret: None }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn told(errand: &Errand) -> &str {
        errand.call().map_or("", |call| &call.url)
    }

    #[test]
    fn the_calls_of_one_end_come_one_after_the_other_also_at_two_endpoints() {
        let mut errands = Errands::default();
        assert!(errands.add(vec![call("http://a/1"), call("http://b/2"), call("http://a/3")], secs(0)));
        for expected in ["http://a/1", "http://b/2", "http://a/3"] {
            let errand = errands.next(secs(0)).expect("one waits");
            assert_eq!(told(&errand), expected);
            assert!(errands.next(secs(0)).is_none() && errands.waiting() == 1);
            errands.heard(errand);
        }
        assert_eq!((errands.waiting(), errands.due()), (0, None));
        let delivered: u64 = errands.tallies().map(|(_, tally)| tally.delivered).sum();
        assert_eq!(delivered, 3);
    }

    #[test]
    fn an_endpoint_that_is_down_is_tried_alone_and_ever_less_often() {
        let mut errands = Errands::default();
        for number in 0..3 {
            errands.add(vec![call(&format!("http://down/{number}"))], secs(0));
        }
        errands.add(vec![call("http://up/")], secs(0));
        let mut now = secs(0);
        let mut waits = Vec::new();
        let up = std::iter::from_fn(|| errands.next(now)).collect::<Vec<_>>();
        assert_eq!(up.len(), 4, "all at once, while nobody knows");
        for errand in up {
            if told(&errand).starts_with("http://up") {
                errands.heard(errand)
            } else {
                errands.not_heard(errand, now, 1.0);
            }
        }
        for _ in 0..7 {
            let due = errands.due().expect("they still wait");
            waits.push((due - now).as_secs());
            now = due;
            let errand = errands.next(now).expect("its time has come");
            assert!(errands.next(now).is_none(), "the others wait for this one");
            errands.not_heard(errand, now, 1.0);
        }
        assert_eq!(waits, [4, 8, 16, 30, 30, 30, 30]);
        now = errands.due().expect("they still wait");
        let errand = errands.next(now).expect("its time has come");
        errands.heard(errand);
        assert_eq!(std::iter::from_fn(|| errands.next(now)).count(), 2, "it is back: everything goes");
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_in_time() {
        let mut errands = Errands::default();
        for _ in 0..MAX_WAITING {
            assert!(errands.add(vec![call("http://a/")], secs(0)));
        }
        assert!(!errands.add(vec![call("http://a/"), call("http://a/")], secs(0)));
        assert_eq!(errands.tallies().map(|(_, tally)| tally.lost).sum::<u64>(), 2);
        let errand = errands.next(secs(1)).expect("one waits");
        assert!(errands.not_heard(errand, secs(599), 0.0));
        let errand = errands.next(secs(700)).expect("one waits");
        assert!(!errands.not_heard(errand, secs(700), 0.0), "ten minutes are over");
        assert_eq!(errands.waiting(), MAX_WAITING - 1);
    }

    #[test]
    fn at_the_end_everything_is_tried_once_more_at_once() {
        let mut errands = Errands::default();
        errands.add(vec![call("http://a/")], secs(0));
        let errand = errands.next(secs(0)).expect("one waits");
        errands.not_heard(errand, secs(0), 1.0);
        assert!(errands.next(secs(0)).is_none());
        errands.hurry(secs(0));
        assert!(errands.next(secs(0)).is_some());
    }
}
