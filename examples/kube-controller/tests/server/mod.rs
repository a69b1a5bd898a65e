//! A real API server with its etcd, in the network namespace of the test.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kube::config::AuthInfo;
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::eventually;

/// The tokens of the test, which may do everything, and of the controller.
const TOKENS: [&str; 2] = ["test", "controller"];

/// Their users, as the server reads them: token, name, id, groups.
const USERS: &str = "\
test,admin,1,system:masters
controller,system:serviceaccount:viproute:viproute-kube,2,
";

/// The arguments of kube-apiserver. It wants an address to advertise where there is no default route.
const API_SERVER: [&str; 10] = [
    "--etcd-servers=http://127.0.0.1:2379",
    "--bind-address=127.0.0.1",
    "--advertise-address=192.0.2.10",
    "--secure-port=6443",
    "--service-account-issuer=https://localhost",
    "--authorization-mode=RBAC",
    "--service-cluster-ip-range=10.96.0.0/16,2001:db8:42:1::/112",
    "--feature-gates=IPv6DualStack=true,EndpointSliceNodeName=true,EndpointSliceTerminatingCondition=true",
    "--disable-admission-plugins=ServiceAccount",
    "--allow-privileged=true",
];

pub(crate) struct Server {
    /// Where the programs are.
    programs: PathBuf,
    directory: PathBuf,
    etcd: Child,
    api: Child,
}

impl Server {
    /// Starts it, with the programs of this folder.
    pub(crate) async fn start(programs: &Path, name: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("tokens"), USERS).unwrap();
        let etcd = start(
            Command::new(programs.join("etcd"))
                .args(["--unsafe-no-fsync", "--name=one", "--data-dir"])
                .arg(directory.join("etcd")),
            &directory.join("etcd.log"),
        );
        let api = start_api(programs, &directory);
        let server = Self {
            programs: programs.to_owned(),
            directory,
            etcd,
            api,
        };
        server.await_ready().await;
        server
    }

    async fn await_ready(&self) {
        let client = self.client();
        let is_ready = || async {
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            client.request_text(request).await.is_ok()
        };
        eventually(
            &format!("an API server: see {}", self.directory.display()),
            is_ready,
        )
        .await;
    }

    pub(crate) fn client(&self) -> Client {
        self.client_of(TOKENS[0])
    }

    /// Of the controller's user, who has the rights of the manifests.
    pub(crate) fn client_of_controller(&self) -> Client {
        self.client_of(TOKENS[1])
    }

    fn client_of(&self, token: &str) -> Client {
        let mut config = Config::new("https://127.0.0.1:6443".parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info = AuthInfo {
            token: Some(token.to_owned().into()),
            ..AuthInfo::default()
        };
        Client::try_from(config).unwrap()
    }

    /// A file that tells a program how to reach it.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        let path = self.directory.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": {
                "server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": true } }],
            "users": [{ "name": "u", "user": { "token": TOKENS[1] } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        });
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// As if the machine of the server had lost its power.
    pub(crate) fn kill(&mut self) {
        self.api.kill().unwrap();
        self.api.wait().unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.api = start_api(&self.programs, &self.directory);
        self.await_ready().await;
    }

    /// Forgets all revisions of the past.
    pub(crate) fn compact(&self) {
        let revision = etcd("maintenance/status", &json!({}))["header"]["revision"].clone();
        etcd(
            "kv/compaction",
            &json!({ "revision": revision, "physical": true }),
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in [&mut self.api, &mut self.etcd] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start_api(programs: &Path, directory: &Path) -> Child {
    let key = programs.join("service-account.key");
    start(
        Command::new(programs.join("kube-apiserver"))
            .args(API_SERVER)
            .arg("--token-auth-file")
            .arg(directory.join("tokens"))
            .arg("--cert-dir")
            .arg(directory.join("certificates"))
            .arg("--service-account-key-file")
            .arg(&key)
            .arg("--service-account-signing-key-file")
            .arg(&key),
        &directory.join("apiserver.log"),
    )
}

/// Starts a program that ends with the test at the latest, with its words in a file.
#[allow(unsafe_code)]
fn start(command: &mut Command, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    // SAFETY: prctl(2) is async-signal-safe, and touches no memory of this process.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A call of etcd's JSON gateway.
fn etcd(call: &str, body: &Value) -> Value {
    let mut connection = TcpStream::connect("127.0.0.1:2379").unwrap();
    connection
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let body = body.to_string();
    let length = body.len();
    let request = format!(
        "POST /v3/{call} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{answer}");
    serde_json::from_str(body).unwrap()
}
