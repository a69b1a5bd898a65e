//! An API server in the test's own process: lists and watches as a test orders them.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body;
use kube::client::{Body, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedSender};

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;
type Watch = UnboundedSender<io::Result<Bytes>>;

/// What a list of a resource gives.
#[derive(Clone, Debug, Default)]
pub(crate) struct List {
    pub(crate) items: Vec<Value>,
    /// The list breaks off after so many items: the next page is an error.
    pub(crate) breaks_after: Option<usize>,
}

#[derive(Clone, Default)]
pub(crate) struct Mock(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lists: HashMap<String, List>,
    watches: HashMap<String, Vec<Watch>>,
    /// Method and target of each request.
    requests: Vec<String>,
    created: Vec<Value>,
    version: u64,
}

impl Mock {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        let mock = self.clone();
        let answer = move |request| {
            let mock = mock.clone();
            async move { Ok::<_, io::Error>(mock.answer(request).await) }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    /// From now on lists of this resource have these items.
    pub(crate) fn list(&self, resource: &str, items: &[Value]) {
        self.list_as(
            resource,
            List {
                items: items.to_vec(),
                breaks_after: None,
            },
        );
    }

    pub(crate) fn list_as(&self, resource: &str, list: List) {
        self.state().lists.insert(resource.to_owned(), list);
    }

    /// The objects that were created: events.
    pub(crate) fn created(&self) -> Vec<Value> {
        self.state().created.clone()
    }

    /// How many requests have this text in their target.
    pub(crate) fn requests(&self, text: &str) -> usize {
        let state = self.state();
        state
            .requests
            .iter()
            .filter(|request| request.contains(text))
            .count()
    }

    /// How many watches of this resource are open.
    pub(crate) fn watches(&self, resource: &str) -> usize {
        let mut state = self.state();
        let watches = state.watches.entry(resource.to_owned()).or_default();
        watches.retain(|watch| !watch.is_closed());
        watches.len()
    }

    /// Sends a change to the watches of the resource.
    pub(crate) fn change(&self, resource: &str, kind: &str, mut object: Value) {
        let mut state = self.state();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let line = json!({ "type": kind, "object": object });
        drop(state);
        self.send(resource, &format!("{line}\n"));
    }

    /// The watches get this error, as the API server sends it.
    pub(crate) fn expire(&self, resource: &str) {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "too old resource version", "reason": "Expired", "code": 410,
        });
        self.send(
            resource,
            &format!("{}\n", json!({ "type": "ERROR", "object": status })),
        );
    }

    /// Sends bytes, which may be a part of a line.
    pub(crate) fn send(&self, resource: &str, text: &str) {
        for watch in self.state().watches.get(resource).into_iter().flatten() {
            let _ = watch.send(Ok(Bytes::from(text.to_owned())));
        }
    }

    /// Ends the watches of the resource in the middle of a line.
    pub(crate) fn break_watches(&self, resource: &str) {
        for watch in self.state().watches.remove(resource).into_iter().flatten() {
            let _ = watch.send(Ok(Bytes::from_static(b"{\"type\":\"DEL")));
            let _ = watch.send(Err(io::ErrorKind::ConnectionReset.into()));
        }
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let target = request.uri().to_string();
        let path = request.uri().path().to_owned();
        let resource = path.rsplit('/').next().unwrap().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let is_create = request.method() == Method::POST;
        self.state()
            .requests
            .push(format!("{} {target}", request.method()));
        if is_create {
            let body = request.into_body().collect_bytes().await.unwrap();
            let object: Value = serde_json::from_slice(&body).unwrap();
            self.state().created.push(object.clone());
            return whole(201, &object);
        }
        let mut state = self.state();
        if query.contains("watch=true") {
            let (send, receive) = mpsc::unbounded_channel();
            state.watches.entry(resource).or_default().push(send);
            let frames = stream::unfold(receive, |mut receive| async {
                let part: Option<io::Result<Bytes>> = receive.recv().await;
                part.map(|part| (part.map(body::Frame::data), receive))
            });
            return Response::new(StreamBody::new(frames).boxed_unsync());
        }
        let Some(list) = state.lists.get(&resource).cloned() else {
            return whole(500, &failure());
        };
        let (items, next) = match list.breaks_after {
            None => (&list.items[..], None),
            Some(_) if query.contains("continue=next") => return whole(500, &failure()),
            Some(count) => (&list.items[..count], Some("next")),
        };
        state.version += 1;
        let meta = json!({ "resourceVersion": state.version.to_string(), "continue": next });
        whole(
            200,
            &json!({ "kind": "List", "apiVersion": "v1", "metadata": meta, "items": items }),
        )
    }
}

fn failure() -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "etcdserver: request timed out", "reason": "InternalError", "code": 500,
    })
}

fn whole(status: u16, body: &Value) -> Answer {
    let body = Full::from(body.to_string()).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status.try_into().unwrap();
    response
}
