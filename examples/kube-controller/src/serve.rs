//! The endpoints: /healthz, /readyz and /metrics.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::status::Status;

/// What Prometheus asks for.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections at a time; the kernel's queue holds others.
const CONNECTIONS_MAX: usize = 16;

/// A client gets so long to send its request.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// Answers until the future is dropped.
pub(crate) async fn serve(listener: TcpListener, status: Arc<Status>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = free.clone().acquire_owned().await;
        let Ok((connection, _)) = listener.accept().await else {
            // No descriptor is left, for the moment.
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let status = status.clone();
        tokio::spawn(async move {
            let answer = |request| {
                let answer = answer(&request, &status);
                async { Ok::<_, Infallible>(answer) }
            };
            // A client that goes away is no concern of the controller.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME)
                .keep_alive(false)
                .serve_connection(TokioIo::new(connection), service_fn(answer))
                .await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, status: &Arc<Status>) -> Response<Full<Bytes>> {
    let (code, text) = match request.uri().path() {
        "/healthz" => match status.trouble() {
            None => (StatusCode::OK, "ok\n".to_owned()),
            Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, trouble + "\n"),
        },
        "/readyz" if status.is_ready() => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "no full sync yet\n".into()),
        "/metrics" => (StatusCode::OK, status.metrics()),
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    if request.uri().path() == "/metrics" {
        let kind = HeaderValue::from_static(OPEN_METRICS);
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}
