//! One network namespace, held by a thread that lives in it.

use std::any::Any;
use std::env;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use viproute::sandbox::Sandbox;

/// No step of a test takes longer than this, or the test fails.
const STEP_LIMIT: Duration = Duration::from_secs(60);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace of its own. It ends with the value.
///
/// The namespace belongs to a thread, so nothing has to be mounted and no process held: what the
/// thread starts (threads, commands) is in the namespace, and `ip link … netns` takes the thread's
/// id.
pub(crate) struct Node {
    name: &'static str,
    thread_id: u32,
    jobs: Option<Sender<Job>>,
    /// Hangs up when the thread is done.
    done: Receiver<()>,
}

impl Node {
    /// A fresh namespace, in which `lo` is up and IPv6 addresses are usable at once.
    pub(crate) fn new(name: &'static str) -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (started, start) = mpsc::channel();
        let (alive, done) = mpsc::channel();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _alive: Sender<()> = alive;
                let _sandbox = Sandbox::new().expect("a network namespace for this thread");
                started.send(own_thread_id()).expect("the maker waits");
                for job in inbox {
                    job();
                }
            })
            .expect("a thread");
        let thread_id = start
            .recv_timeout(STEP_LIMIT)
            .unwrap_or_else(|_| panic!("{name}: no network namespace could be made"));
        let node = Self {
            name,
            thread_id,
            jobs: Some(jobs),
            done,
        };
        node.sysctl("net/ipv6/conf/all/accept_dad", "0");
        node.sysctl("net/ipv6/conf/default/accept_dad", "0");
        node
    }

    /// What `ip link … netns` takes.
    pub(crate) fn netns(&self) -> u32 {
        self.thread_id
    }

    /// Runs `job` on the thread of the namespace and returns what it returns, a panic included.
    /// Threads and commands that it starts are in the namespace as well.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel::<Result<T, Box<dyn Any + Send>>>();
        let job: Job = Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(job));
            // Nobody listens any more after the time limit.
            let _ = answer.send(result);
        });
        let jobs = self.jobs.as_ref().expect("only drop takes it");
        jobs.send(job)
            .expect("the thread lives as long as the node");
        match answered.recv_timeout(STEP_LIMIT) {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(e) => panic!("{}: no answer within {STEP_LIMIT:?}: {e}", self.name),
        }
    }

    /// Runs `ip` with these words in the namespace, and returns what it printed.
    pub(crate) fn ip(&self, words: &str) -> String {
        self.try_ip(words).unwrap_or_else(|e| panic!("{e}"))
    }

    /// As [`ip`](Self::ip), with the failure of the command as a value.
    pub(crate) fn try_ip(&self, words: &str) -> Result<String, String> {
        self.command("ip", "iproute2", words, "")
    }

    /// Feeds `rules` to `nft` in the namespace.
    pub(crate) fn nft(&self, rules: &str) {
        self.command("nft", "nftables", "-f -", rules)
            .unwrap_or_else(|e| panic!("{e}"));
    }

    /// Runs `nft` with these words in the namespace, and returns what it printed.
    pub(crate) fn nft_list(&self, words: &str) -> String {
        self.command("nft", "nftables", words, "")
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// Runs `ipvsadm` with these words in the namespace.
    pub(crate) fn try_ipvsadm(&self, words: &str) -> Result<String, String> {
        self.command("ipvsadm", "ipvsadm", words, "")
    }

    /// Sets `/proc/sys/<key>`; the namespace decides whose `net/…` that is.
    pub(crate) fn sysctl(&self, key: &str, value: &'static str) {
        let path = format!("/proc/sys/{key}");
        let written = self.run({
            let path = path.clone();
            move || fs::write(path, value)
        });
        written
            .unwrap_or_else(|e| panic!("{}: {path} could not be set to {value}: {e}", self.name));
    }

    fn command(
        &self,
        program: &'static str,
        package: &str,
        words: &str,
        input: &str,
    ) -> Result<String, String> {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let line = format!("{}: {program} {}", self.name, words.join(" "));
        let fed = input.to_owned();
        // An ordinary user's path often lacks the last two.
        let path = env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
        let path = format!("{path}:/usr/sbin:/sbin");
        let output = self.run(move || {
            let mut child = Command::new(program)
                .args(words)
                .env("PATH", path)
                .env("LC_ALL", "C")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            child
                .stdin
                .take()
                .expect("it is piped")
                .write_all(fed.as_bytes())?;
            child.wait_with_output()
        });
        let output = output.map_err(|e| match e.kind() {
            ErrorKind::NotFound => format!(
                "{line}: the end-to-end tests need the command `{program}`: install the package \
                 {package} (Debian, Ubuntu: apt-get install -y {package})"
            ),
            _ => format!("{line}: {e}"),
        })?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let stderr = String::from_utf8_lossy(&output.stderr);
            Err(format!(
                "{line}: {}: {}\n{input}",
                output.status,
                stderr.trim_end()
            ))
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.jobs = None;
        // Waiting is tidy, but no reason to hang: a stuck thread goes with the process.
        if self.done.recv_timeout(STEP_LIMIT) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{}: its thread did not end", self.name);
        }
    }
}

/// Waits until `condition` holds, and fails with `what` if it does not within the limit.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn own_thread_id() -> u32 {
    let link = fs::read_link("/proc/thread-self").expect("/proc is mounted");
    let id = link
        .file_name()
        .and_then(|id| id.to_str())
        .and_then(|id| id.parse().ok());
    id.expect("/proc/thread-self ends in the thread's id")
}
