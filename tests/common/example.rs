//! The examples as programs: built, run, and watched while they run. For the tests of a member that
//! has an example (`examples/vip` and its like).

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::VIP_LINK;

/// An example of the package of this test, built. `cargo test` builds it beside the tests, but not with
/// `--test NAME` alone: then this does it.
pub fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    // target/PROFILE/deps/TEST-HASH, whichever directory target is.
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST-*");
    let path = |name: &str| profile.join("examples").join(name);
    BUILT.get_or_init(|| {
        if !fresh(&path(name)) {
            build(profile);
        }
    });
    assert!(
        fresh(&path(name)),
        "{} is missing or older than its sources: run `cargo build --examples`",
        path(name).display()
    );
    path(name)
}

/// Whether this is there and not older than any of the sources that cargo lists beside it.
fn fresh(binary: &Path) -> bool {
    let Some(built) = modified(binary) else {
        return false;
    };
    let sources = std::fs::read_to_string(binary.with_extension("d")).unwrap_or_default();
    let sources = sources.split_once(": ").map_or("", |(_, sources)| sources);
    // Where a path has a space, or the sources are elsewhere now, it counts as fresh.
    sources
        .split_whitespace()
        .filter_map(|source| modified(Path::new(source)))
        .all(|changed| changed <= built)
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

/// Builds the examples of the package into `target/PROFILE`, if this test runs under cargo.
fn build(profile: &Path) {
    let Some(cargo) = std::env::var_os("CARGO") else {
        return;
    };
    let name = match profile.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let status = Command::new(cargo)
        // There is no network in here.
        .args(["build", "--offline", "--quiet", "--examples", "--profile"])
        .arg(name)
        .arg("--target-dir")
        .arg(profile.parent().expect("target"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("running cargo");
    if !status.success() {
        // Once is enough: each test then says that its program is missing or old.
        eprintln!("cargo build --examples: {status}");
    }
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Of a program that has ended.
    pub fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// Standard output is one line with these counters, in the order of a report.
    #[track_caller]
    pub fn counts(
        self,
        assigned: usize,
        repaired: usize,
        released: usize,
        unchanged: usize,
    ) -> Self {
        let counters = format!(
            "{VIP_LINK}: {assigned} assigned, {repaired} repaired, {released} released, \
             {unchanged} unchanged, "
        );
        assert!(self.out.starts_with(&counters), "{self:?}");
        assert_eq!(self.out.lines().count(), 1, "{self:?}");
        self
    }

    #[track_caller]
    pub fn complains(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
        self
    }

    #[track_caller]
    pub fn quiet(self) -> Self {
        assert_eq!(self.err, "", "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// How long anything may take, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is so, which `what` names.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A program that runs until a signal ends it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    out: Stream,
    err: Stream,
}

/// What it has written to a stream so far.
#[derive(Debug)]
struct Stream {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Stream {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let text = Arc::clone(&text);
            move || {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).unwrap() > 0 {
                    *text.lock().unwrap() += &line;
                    line.clear();
                }
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// All, once the other end is closed.
    fn end(&mut self) -> String {
        self.reader.take().unwrap().join().unwrap();
        self.text()
    }
}

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            out: Stream::of(child.stdout.take().unwrap()),
            err: Stream::of(child.stderr.take().unwrap()),
            child,
        }
    }

    /// What it has written to standard output so far.
    pub fn out(&self) -> String {
        self.out.text()
    }

    /// What it has written to standard error so far.
    pub fn err(&self) -> String {
        self.err.text()
    }

    /// Waits until it has written a whole line with this to standard output.
    #[track_caller]
    pub fn says(&self, words: &str) {
        self.wait(words, Self::out);
    }

    /// Waits until it has written a whole line with this to standard error.
    #[track_caller]
    pub fn complains(&self, words: &str) {
        self.wait(words, Self::err);
    }

    #[track_caller]
    fn wait(&self, words: &str, text: fn(&Self) -> String) {
        let deadline = Instant::now() + PATIENCE;
        while !text(self).contains(words) {
            assert!(
                Instant::now() < deadline,
                "no {words:?} within {PATIENCE:?} in {:?} or {:?}",
                self.out(),
                self.err()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    #[allow(unsafe_code)]
    pub fn signal(&self, signal: i32) {
        let id = i32::try_from(self.child.id()).unwrap();
        // SAFETY: kill(2) touches no memory. The child was not waited for, so the id is still its.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn wait_for_end(mut self) -> Ran {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end: {self:?}");
            std::thread::sleep(Duration::from_millis(5));
        };
        Ran {
            code: status.code(),
            out: self.out.end(),
            err: self.err.end(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
