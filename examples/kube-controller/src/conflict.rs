//! Events on the Services whose VIP another device holds.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use viproute::Failure;

use crate::desired::Key;

/// Who reports.
const CONTROLLER: &str = "viproute.dev/kube-controller";

/// An event that says that a VIP of this Service is in conflict on this node.
pub(crate) fn event(service: &Key, node: &str, failure: &Failure) -> Event {
    Event {
        metadata: ObjectMeta {
            namespace: Some(service.namespace.to_string()),
            generate_name: Some(format!("{}-", service.name)),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(node.to_owned()),
        type_: Some("Warning".to_owned()),
        reason: Some("VipConflict".to_owned()),
        action: Some("HoldVip".to_owned()),
        note: Some(format!("node {node}: {failure}")),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(service.namespace.to_string()),
            name: Some(service.name.to_string()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

/// Sends events, one after the other. A refusal is only logged.
pub(crate) async fn send(client: Client, events: Vec<Event>) {
    for event in events {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::warn!(%error, "cannot create an event");
        }
    }
}
