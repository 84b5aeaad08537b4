//! What nginx's `http {}` says about a request: servers, locations, files, error pages.

use actix_web::{HttpRequest, HttpResponse, http::header, web};

use super::{Site, watch};

/// Answers one request.
pub async fn serve(site: web::Data<Site>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let mut answer = watch(&site, request.path(), &request, payload).await;
    answer.headers_mut().insert(header::SERVER, header::HeaderValue::from_static("livemill"));
    answer
}
