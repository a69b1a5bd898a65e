//! A Kubernetes controller that holds the VIPs of a node's Services on a link: see the README beside it.
//!
//! `desired` says which VIPs the Services ask for, `node` with which sources; `run` gives the orders to a
//! [`Keeper`](viproute::Keeper) on a thread of its own. `status` and `serve` are the endpoints,
//! `conflict` the events.

mod args;
mod conflict;
mod desired;
mod node;
mod run;
mod serve;
mod status;

pub use args::{Args, Form, Kind};
pub use run::{Failed, run};
