//! The loop: what the API server says becomes orders to the keeper.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;

use futures::stream::{self, BoxStream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Api, Client, Resource};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use viproute::{Cause, Dispatched, Error, ErrorKind, Failure, Keeper, KeeperHandle, Vip};

use crate::args::Args;
use crate::conflict;
use crate::desired::{Change, Desired, PROXY_NAME, Step};
use crate::node::Sources;
use crate::serve::serve;
use crate::status::{Status, Watch};

/// Services that get an event of one dispatch. A node on which every VIP is in conflict must not flood
/// the API server.
const EVENTS_MAX: usize = 16;

/// Why the controller cannot go on.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Follows the API server and keeps the VIPs of its Services, until `stop` ends or the keeper fails.
///
/// It serves its endpoints, too ([`Args::listen`]). In network namespaces it works in the one of the calling
/// thread, so its runtime must be tokio's of one thread.
///
/// # Errors
///
/// If it cannot serve its endpoints, or cannot keep VIPs: the process lacks CAP_NET_ADMIN, or the
/// arguments contradict each other. What may heal is no error: see the endpoints.
pub async fn run(
    client: Client,
    args: &Args,
    stop: impl Future<Output = ()>,
) -> Result<(), Failed> {
    let socket = TcpListener::bind(args.listen).await?;
    let mut controller = Controller::new(client.clone(), args.clone());
    let server = tokio::spawn(serve(socket, controller.status.clone()));
    // As kube-proxy does: Services of another proxy do not even come.
    let selected = Config::default().labels(&format!("!{PROXY_NAME}"));
    let mut services = follow::<Service>(&client, selected);
    let mut slices = match args.local_policies {
        true => follow::<EndpointSlice>(&client, Config::default()),
        false => stream::pending().boxed(),
    };
    let own = Config::default().fields(&format!("metadata.name={}", args.node));
    let mut nodes = follow::<Node>(&client, own);
    // Each beat gets a dispatch, so a keeper that hangs becomes known.
    let mut beats = tokio::time::interval(args.unhealthy_after / 4);
    let mut stop = pin!(stop);
    tracing::info!(
        node = args.node,
        link = args.link,
        "following the API server"
    );
    let ended = loop {
        tokio::select! {
            () = &mut stop => break controller.end(),
            Some(event) = services.next() => controller.service(event),
            Some(event) = slices.next() => controller.slice(event),
            Some(event) = nodes.next() => controller.node(event),
            done = controller.dispatches.recv() => match done {
                Some(done) => controller.dispatched(done),
                None => break controller.end(),
            },
            _ = beats.tick() => controller.order(|keeper| keeper.add(<[Vip; 0]>::default())),
        }
        if let Err(error) = controller.go_on() {
            break Err(error.into());
        }
    };
    server.abort();
    ended
}

/// The lists and changes of one resource. After an error it goes on, with pauses.
fn follow<K>(
    client: &Client,
    config: Config,
) -> BoxStream<'static, watcher::Result<watcher::Event<K>>>
where
    K: Resource + Clone + Debug + serde::de::DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let api = Api::<K>::all(client.clone());
    watcher(api, config).default_backoff().boxed()
}

/// What to do with an event of a watch: an error changes nothing.
fn step<'a, K: Resource<DynamicType = ()>>(
    event: &'a watcher::Result<watcher::Event<K>>,
    status: &Status,
) -> Option<Step<'a, K>> {
    let resource = Watch(match &*K::plural(&()) {
        "services" => "services",
        "nodes" => "nodes",
        _ => "endpointslices",
    });
    Some(match event {
        Err(error) => {
            status.errors.get_or_create(&resource).inc();
            tracing::warn!(resource = resource.0, %error, "a watch failed; the VIPs stay as they are");
            return None;
        }
        Ok(watcher::Event::Init) => Step::Begin,
        Ok(watcher::Event::InitApply(object)) => Step::Listed(object),
        Ok(watcher::Event::InitDone) => {
            status.lists.get_or_create(&resource).inc();
            Step::Complete
        }
        Ok(watcher::Event::Apply(object)) => Step::Put(object),
        Ok(watcher::Event::Delete(object)) => Step::Gone(object),
    })
}

struct Controller {
    client: Client,
    args: Args,
    status: Arc<Status>,
    desired: Desired,
    sources: Sources,
    keeping: Keeping,
    /// It was said that the first list is on the link.
    is_ready: bool,
    /// What the keeper's thread says. Ends with it.
    dispatches: UnboundedReceiver<Result<Dispatched, Error>>,
}

enum Keeping {
    /// Until the Node has an address and every list is complete.
    NotYet(UnboundedSender<Result<Dispatched, Error>>),
    Since {
        handle: KeeperHandle,
        thread: JoinHandle<Result<Keeper, Error>>,
    },
    Ended,
}

impl Controller {
    fn new(client: Client, args: Args) -> Self {
        let (send, dispatches) = mpsc::unbounded_channel();
        Self {
            client,
            status: Status::new(args.unhealthy_after),
            desired: Desired::new(args.rules()),
            sources: Sources::default(),
            keeping: Keeping::NotYet(send),
            is_ready: false,
            dispatches,
            args,
        }
    }

    fn service(&mut self, event: watcher::Result<watcher::Event<Service>>) {
        if let Some(step) = step(&event, &self.status) {
            let change = self.desired.service(step);
            self.status.set_services(self.desired.services());
            self.apply(change);
        }
    }

    fn slice(&mut self, event: watcher::Result<watcher::Event<EndpointSlice>>) {
        if let Some(step) = step(&event, &self.status) {
            let change = self.desired.slice(step);
            self.apply(change);
        }
    }

    fn node(&mut self, event: watcher::Result<watcher::Event<Node>>) {
        // A Node that is deleted is registered again, or the machine ends.
        if let Some(Step::Listed(node) | Step::Put(node)) = step(&event, &self.status) {
            let new: Vec<_> = self.sources.update(Sources::of(node)).collect();
            for source in new {
                tracing::info!(%source, "the node's address");
                self.order(|keeper| keeper.set_source(source));
            }
        }
    }

    /// Gives an order to the keeper, if it has begun.
    fn order(&self, give: impl FnOnce(&KeeperHandle) -> Result<(), Error>) {
        if let Keeping::Since { handle, .. } = &self.keeping
            && let Err(error) = give(handle)
        {
            // If the keeper has ended, the loop learns it from the channel.
            tracing::error!(%error, "the keeper refused");
        }
    }

    fn apply(&self, change: Change) {
        match change {
            Change::Some { added, removed } => {
                if !added.is_empty() {
                    self.order(|keeper| keeper.add(added));
                }
                if !removed.is_empty() {
                    self.order(|keeper| keeper.remove(removed));
                }
            }
            Change::All => self.order(|keeper| keeper.set(self.desired.vips())),
        }
    }

    /// Starts the keeper when all is known that it needs, and says when it is ready.
    fn go_on(&mut self) -> Result<(), Error> {
        match self.keeping {
            Keeping::NotYet(_) => self.start(),
            Keeping::Since { .. } if !self.is_ready && self.status.is_ready() => {
                self.is_ready = true;
                tracing::info!("ready");
                notify(&[NotifyState::Ready]);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Starts the keeper with the whole set, once the Node has an address and every list is complete.
    fn start(&mut self) -> Result<(), Error> {
        let Keeping::NotYet(send) = &self.keeping else {
            return Ok(());
        };
        if !self.desired.is_complete() || self.sources == Sources::default() {
            return Ok(());
        }
        let claim = self.args.claim().at_most(self.args.at_most);
        let manager = self.args.builder(self.sources).open()?;
        let mut keeper = manager.into_keeper(claim)?;
        keeper.set_desired(self.desired.vips());
        let send = send.clone();
        let (handle, thread) = keeper.spawn(move |done| {
            // The loop has ended: nobody is left to know.
            let _ = send.send(done);
        })?;
        self.status.set_keeper(Some(handle.clone()));
        tracing::info!(
            vips = self.desired.vips().len(),
            "the first list is complete"
        );
        self.keeping = Keeping::Since { handle, thread };
        Ok(())
    }

    fn dispatched(&mut self, done: Result<Dispatched, Error>) {
        let done = match done {
            Ok(done) => done,
            Err(error) => return self.refused(&error),
        };
        if done.report.writes > 0 {
            let report = &done.report;
            tracing::info!(
                assigned = report.assigned,
                repaired = report.repaired,
                released = report.released,
                failed = report.failures.len(),
                "kept"
            );
        }
        for missing in &done.missing {
            tracing::warn!(%missing, "waiting");
        }
        if let Some(detail) = &done.detail {
            tracing::warn!(detail, "not released");
        }
        for failure in &done.recovered {
            tracing::info!(vip = %failure.vip, "fails no longer");
        }
        // One line says what a whole family lacks.
        let is_own = |failure: &&Failure| !matches!(failure.cause, Cause::Missing(_));
        for failure in done.new_failures.iter().filter(is_own) {
            tracing::warn!(vip = %failure.vip, cause = failure.cause.as_str(), %failure, "fails");
        }
        self.report_conflicts(&done.new_failures);
    }

    /// A set was refused, because too many VIPs would have been released. The VIPs that are new in it
    /// are kept all the same.
    fn refused(&self, error: &Error) {
        tracing::error!(%error, "the set is refused; nothing is released");
        if error.kind() == ErrorKind::TooManyReleases {
            self.status.refused.inc();
            self.order(|keeper| keeper.add(self.desired.vips()));
        }
    }

    fn report_conflicts(&self, failures: &[Failure]) {
        let conflicts = failures
            .iter()
            .filter(|failure| failure.cause == Cause::Conflict);
        let mut events = Vec::new();
        for failure in conflicts {
            for service in self.desired.services_of(failure.vip) {
                if events.len() == EVENTS_MAX {
                    break;
                }
                events.push(conflict::event(service, &self.args.node, failure));
            }
        }
        if !events.is_empty() {
            tokio::spawn(conflict::send(self.client.clone(), events));
        }
    }

    /// Ends the keeper, and releases the VIPs if that was asked for.
    fn end(&mut self) -> Result<(), Failed> {
        notify(&[NotifyState::Stopping]);
        self.status.set_keeper(None);
        let keeping = std::mem::replace(&mut self.keeping, Keeping::Ended);
        let Keeping::Since { handle, thread } = keeping else {
            return Ok(());
        };
        // Without a handle the thread ends after the orders that it has.
        drop(handle);
        let keeper = thread
            .join()
            .map_err(|_| "the keeper's thread panicked")??;
        if self.args.release_on_exit {
            // Without the bound, which is against wrong lists: this is meant.
            let released = keeper.into_manager().release_all(&self.args.claim())?;
            tracing::info!(released = released.released, "released the VIPs");
        }
        tracing::info!("ended");
        Ok(())
    }
}

/// Tells systemd, where it started the process.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "no notification of systemd");
    }
}
