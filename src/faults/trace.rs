//! The events of faults, for the feature `tracing`.

#[path = "../../tests/common/collector.rs"]
mod collector;

use collector::collect;

use super::forged::{interrupt_dumps, refuse};
use super::*;

#[test]
fn a_refusal_gives_a_failure_with_vip_operation_and_errno() {
    let _node = node();
    let set = v4(2);
    let mut vips = manager(1 << 20);
    let spoiled = set[1];
    vips.connection.tamper = Some(Box::new(move |batch| {
        let mut addresses = split(batch).filter(|message| kind(message) == NEWADDR);
        if let Some(message) = addresses.find(|message| names(message, &spoiled)) {
            spoil_address(message);
        }
    }));
    let (collected, _) = collect(|| vips.assign(&set).unwrap_err());
    let [failure] = *collected.named("failure") else {
        panic!("{:#?}", collected.events);
    };
    let fields = failure.with(["vip", "cause", "operation", "errno"]).1;
    let errno = libc::EINVAL.to_string();
    assert_eq!(fields, ["10.96.0.2", "kernel", "add_address", &errno]);
    assert_eq!(failure.field("text").is_empty(), !kernel_since(6, 6));
    let counts = collected.named("done")[0].with(["assigned", "failed"]).1;
    assert_eq!(counts, ["1", "1"]);
    // Every VIP has its event, and that is all.
    assert!(
        collected.named("error").is_empty(),
        "{:#?}",
        collected.events
    );
}

#[test]
fn each_repeated_dump_gives_an_event() {
    let _node = node();
    let mut vips = manager(1 << 20);
    vips.assign(v4(20)).unwrap();
    for times in [0, 1] {
        let interrupted = interrupt_dumps(&mut vips, times);
        let (collected, _) = collect(|| vips.audit().unwrap());
        assert_eq!(interrupted.load(Ordering::Relaxed), times);
        let lost = collected.named("lost");
        assert_eq!(lost.len(), times);
        assert!(lost.iter().all(|event| event.field("what") == "dump"));
    }
}

#[test]
fn a_write_that_is_repeated_gives_a_retry() {
    let _node = node();
    let mut vips = builder().open().unwrap();
    let mut is_first = true;
    refuse(&mut vips, move |message| {
        let is_hit = kind(message) == NEWADDR && std::mem::take(&mut is_first);
        is_hit.then_some(libc::ENOMEM)
    });
    let (collected, report) = collect(|| vips.assign(v4(1)).unwrap());
    assert_eq!(report.assigned, 1);
    let retries = collected.named("retry");
    assert_eq!(retries.len() as u64, report.retries);
    let address = ("retry", ["10.96.0.1", "add_address"]);
    assert!(
        retries
            .iter()
            .any(|retry| retry.with(["vip", "operation"]) == address)
    );
}
