//! The process: itself, its hooks, its children; metrics and the document of the API.

use std::sync::Arc;

use bytes::Bytes;

use super::{Reply, ask::Ask, document, list::Wanted, metrics as render, problem::Problem, types, view};

/// The process: version, uptime, what it carries, its threads, its limits.
#[utoipa::path(get, path = "/api/v1/server", tag = "server", responses((status = 200, body = types::ServerInfo)))]
pub async fn server(ask: Ask) -> Result<Reply, Problem> {
    ask.query.finish()?;
    Reply::ok(&view::server(&*ask.api.look().await?))
}

/// What is asked of hooks, and what they have not heard yet.
#[utoipa::path(get, path = "/api/v1/hooks", tag = "server", responses((status = 200, body = types::Hooks)))]
pub async fn hooks(ask: Ask) -> Result<Reply, Problem> {
    ask.query.finish()?;
    Reply::ok(&view::hooks(&ask.api.look().await?.hooks))
}

/// The processes of exec.
#[utoipa::path(
    get, path = "/api/v1/children", tag = "server", params(document::Paging),
    responses((status = 200, body = types::Page<types::Child>))
)]
pub async fn children(mut ask: Ask) -> Result<Reply, Problem> {
    let wanted = Wanted::take(&mut ask.query, &[("", ())])?;
    ask.query.finish()?;
    let seen = ask.api.look().await?;
    let children: Vec<_> = seen.children.iter().enumerate().collect();
    let key =
        |(at, child): &(usize, &crate::actors::children::ChildView)| (child.stream.clone(), child.kind.to_owned(), *at);
    Reply::ok(&wanted.page(children, key, |(_, child)| view::child(child))?)
}

/// This document.
#[utoipa::path(
    get, path = "/api/v1/openapi.json", tag = "server",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value))
)]
pub async fn openapi(ask: Ask) -> Result<Reply, Problem> {
    ask.query.finish()?;
    Ok(Reply::text("application/json", document::json()))
}

/// Everything that can be summed up, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "metrics",
    responses((status = 200, description = "text format 0.0.4", body = String, content_type = "text/plain"))
)]
pub async fn metrics(ask: Ask) -> Result<Reply, Problem> {
    ask.query.finish()?;
    let seen = ask.api.look().await?;
    let mut kept = ask.api.metrics.borrow_mut();
    let text = match &*kept {
        Some((of, text)) if Arc::ptr_eq(of, &seen) => text.clone(),
        _ => {
            let text = Bytes::from(render::text(&seen));
            *kept = Some((seen, text.clone()));
            text
        }
    };
    Ok(Reply::text("text/plain; version=0.0.4; charset=utf-8", text))
}
