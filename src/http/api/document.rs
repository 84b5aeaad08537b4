//! The OpenAPI document, made of the routes and their types.

use std::sync::OnceLock;

use bytes::Bytes;
use utoipa::{
    IntoParams, Modify, OpenApi,
    openapi::{
        ContentBuilder, Ref, RefOr, ResponseBuilder,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use super::{about, bans, clients, relays, streams, types};

/// The document. It is the same for as long as the program is.
pub fn json() -> Bytes {
    static MADE: OnceLock<Bytes> = OnceLock::new();
    // A tree of plain strings: writing it cannot fail.
    MADE.get_or_init(|| serde_json::to_vec(&Document::openapi()).unwrap_or_default().into()).clone()
}

#[derive(OpenApi)]
#[openapi(
    info(title = "livemill", description = "Control and sight of a running server. Every path needs the bearer token."),
    paths(
        about::server, about::hooks, about::children, about::openapi, about::metrics,
        streams::list, streams::one, streams::drop_stream, streams::redirect,
        clients::list, clients::one, clients::drop_client, clients::redirect,
        relays::list, relays::one, relays::add, relays::remove,
        bans::list, bans::add, bans::lift,
    ),
    components(schemas(types::Problem)),
    modifiers(&Common)
)]
struct Document;

/// What holds for every path: the token, and how it is refused.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        if let Some(components) = &mut document.components {
            components.add_security_scheme("token", scheme);
        }
        for item in document.paths.paths.values_mut() {
            for operation in [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten() {
                // `list` of streams and `list` of clients are two.
                let subject = operation.tags.iter().flatten().next().cloned().unwrap_or_default();
                operation.operation_id = operation.operation_id.take().map(|id| format!("{subject}_{id}"));
                operation.security = Some(vec![SecurityRequirement::new("token", [""; 0])]);
                add_problems(operation);
            }
        }
    }
}

fn add_problems(operation: &mut Operation) {
    let body = if operation.request_body.is_some() { WITH_BODY } else { &[] };
    for (status, description) in ANYWHERE.iter().chain(body) {
        let known = operation.responses.responses.entry((*status).to_owned());
        known.or_insert_with(|| RefOr::T(ResponseBuilder::new().description(*description).build()));
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if response.description.is_empty() {
            response.description = "as asked".to_owned();
        }
        if !status.starts_with('2') {
            let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            response.content.insert("application/problem+json".to_owned(), problem.into());
        }
    }
}

const ANYWHERE: &[(&str, &str)] = &[
    ("400", "an argument that makes no sense, or that this path does not know"),
    ("401", "no token, or a wrong one"),
    ("403", "asked by a page of another site"),
    ("421", "asked under a name that is not this server's"),
    ("429", "too many wrong tokens from this address"),
    ("503", "the server is ending"),
];

const WITH_BODY: &[(&str, &str)] = &[
    ("408", "the body took too long"),
    ("413", "the body is longer than 64 KiB"),
    ("415", "the body is not application/json"),
];

// What queries and paths may say. These are for the document alone: `ask` reads them.

/// Pages of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// How many to a page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<u32>,
    /// `next` of the page before.
    #[param(min_length = 1, pattern = "^([0-9a-f]{2})+$")]
    pub cursor: Option<String>,
}

/// Whose name it is.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfStream {
    /// The virtual host.
    pub server: Option<String>,
    pub app: Option<String>,
    pub name: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StreamFilter {
    /// A part of the name.
    pub search: Option<String>,
    pub publishing: Option<bool>,
    /// `name`, `bitrate`, `players` or `age`: the largest first, names from A; `-` in front reverses it.
    #[param(pattern = "^-?(name|bitrate|players|age)$")]
    pub sort: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ClientFilter {
    #[param(inline)]
    pub role: Option<types::Role>,
    /// `rtmp`, `hls` and so on.
    pub protocol: Option<String>,
    /// An IP address.
    #[param(format = "ipv4")]
    pub address: Option<String>,
    /// `newest`, `slowest`, `bytes_in` or `bytes_out`: the most first; `-` in front reverses it.
    #[param(pattern = "^-?(newest|slowest|bytes_in|bytes_out)$")]
    pub sort: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct Id {
    pub id: u64,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct StreamPath {
    #[param(min_length = 1)]
    pub app: String,
    /// It may hold slashes, encoded or not.
    pub name: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfServer {
    /// The virtual host, where several have it; without it all of them.
    pub server: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WithPlayers {
    /// Those who watch, too.
    pub players: Option<bool>,
    /// `false` with `players=true`: those who watch alone.
    pub publisher: Option<bool>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Banning {
    /// Kept out for so long: `60s`, `5m`, a bare number is seconds.
    #[param(pattern = "^([0-9]+(ms|[smhdwMy])?)+$")]
    pub ban: Option<String>,
    /// By which it is known: `both` unless told otherwise. Nothing without `ban`.
    #[param(pattern = "^(both|address|name)$")]
    pub ban_by: Option<String>,
    /// Told to the client and written to the log: one line.
    #[param(max_length = 200, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::api::ROUTES;

    fn operations() -> Vec<(String, serde_json::Value)> {
        let document = serde_json::from_slice::<serde_json::Value>(&json()).expect("a document is JSON");
        let paths = document["paths"].as_object().expect("paths").clone();
        let all = paths.iter().flat_map(|(path, item)| {
            let item = item.as_object().expect("an item").clone();
            item.into_iter().map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation))
        });
        all.collect()
    }

    #[test]
    fn what_is_served_is_what_is_documented() {
        let documented: BTreeSet<String> = operations().into_iter().map(|(name, _)| name).collect();
        let served: BTreeSet<String> = ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
        assert_eq!(documented, served);
        assert_eq!(served.len(), ROUTES.len(), "no route is there twice");
        let ids: BTreeSet<String> =
            operations().iter().map(|(_, operation)| operation["operationId"].to_string()).collect();
        assert_eq!(ids.len(), served.len(), "{ids:?}");
    }

    #[test]
    fn every_operation_documents_its_answers_and_its_problems() {
        for (name, operation) in operations() {
            let responses = operation["responses"].as_object().expect("responses");
            assert!(responses.keys().any(|status| status.starts_with('2')), "{name}");
            for status in ["400", "401", "403", "421", "429", "503"] {
                assert!(responses.contains_key(status), "{name}: {status}");
            }
            for (status, response) in responses {
                let content = response["content"].as_object().unwrap_or_else(|| panic!("{name} {status}: no content"));
                let is_problem = content.contains_key("application/problem+json");
                assert_eq!(is_problem, !status.starts_with('2'), "{name} {status}");
                assert_ne!(response["description"].as_str(), None, "{name} {status}");
            }
            let parts = name.matches('{').count();
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            assert_eq!(parameters.iter().filter(|parameter| parameter["in"] == "path").count(), parts, "{name}");
            assert_eq!(operation["security"][0]["token"], serde_json::json!([]), "{name}");
            assert!(operation["summary"].is_string(), "{name} says what it does");
        }
    }

    #[test]
    fn the_document_is_of_version_3_1_and_refers_to_what_it_holds() {
        let text = String::from_utf8(json().into()).expect("JSON is text");
        let document: serde_json::Value = serde_json::from_str(&text).expect("it was JSON");
        assert!(
            document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")),
            "{}",
            document["openapi"]
        );
        for reference in text.split("\"$ref\":\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let target = document.pointer(reference.trim_start_matches('#'));
            assert!(target.is_some(), "{reference} leads nowhere");
        }
    }
}
