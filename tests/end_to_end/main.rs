//! The failure that this crate cures, end to end: a node connects to a service VIP that it holds
//! itself, and the pod that answers lives behind another node that holds the VIP too.
//!
//! With the VIP as source the answer never comes home, because the other node takes it for its
//! own; with the node's address as source it does. Which of the two the kernel chooses is decided
//! by one local route, and these tests show which: first with `ip` alone, so that the scenario is
//! proven without the crate, then with the crate.
//!
//! The service is made with nftables, and where the kernel has it and lets us, with real IPVS.
//!
//! They need no root: `ip` (iproute2), `nft` (nftables) and permission to make user namespaces.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// Moves the process into its user namespace before it has threads.
#[path = "../common/mod.rs"]
mod common;
mod ipvs;
mod library;
mod node;
mod stages;
mod topology;
