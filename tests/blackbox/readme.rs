//! The READMEs, as a user follows them: every command they show is run by bash, in one session, and what it prints is held
//! against what they say it prints.
//!
//! What is not as on paper is this, and nothing else:
//! - [`substitute`]: the password, the port, where the cluster's audit log lies, and the built binary for the build;
//! - [`mask`]: times, ids, ports, counts and the random ends of pods' names vary;
//! - [`asked_first`]: one list is read before the overview that counts it;
//! - `cargo demo` is given the built binary too ([`the_demo_is_what_it_prints`]), and `cargo test --workspace` is what
//!   runs this.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use pilothouse_testbed::{ControlPlane, Folder, shared, shared_has_node, workloads};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{apply, eventually, within};

const ENGLISH: &str = include_str!("../../README.md");
const CHINESE: &str = include_str!("../../README.zh.md");
/// Where the READMEs say that it listens, and where the cluster's audit log lies.
const ADDRESS: &str = "http://127.0.0.1:8080";
const AUDIT_LOG: &str = "/var/log/kubernetes/audit.log";
const PATIENCE: Duration = Duration::from_secs(180);

/// A fenced block: its language and its lines.
pub(crate) type Block<'a> = (&'a str, Vec<&'a str>);

pub(crate) fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            blocks.push((language, lines.by_ref().take_while(|line| *line != "```").collect()));
        }
    }
    blocks
}

/// A command and what it prints.
#[derive(Debug)]
struct Step {
    command: String,
    prints: Vec<String>,
}

/// The steps of the blocks that are commands. In `sh` all of a block is one; in `console` each `$ ` begins one, what
/// follows is what it prints.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (language, lines) in blocks(page) {
        match language {
            "sh" => steps.push(Step { command: lines.join("\n"), prints: Vec::new() }),
            "console" => {
                for line in lines {
                    match (line.strip_prefix("$ "), steps.last_mut()) {
                        (Some(command), _) => {
                            steps.push(Step { command: command.to_owned(), prints: Vec::new() });
                        }
                        (None, Some(step)) => step.prints.push(line.to_owned()),
                        (None, None) => panic!("output without a command: {line}"),
                    }
                }
            }
            _ => {}
        }
    }
    steps
}

/// What must differ from the paper.
fn substitute(command: &str, password: &str, address: &str, audit_log: &Path) -> String {
    command
        .replace("the one printed", password)
        .replace(ADDRESS, address)
        .replace(AUDIT_LOG, &audit_log.display().to_string())
}

/// What varies from run to run: in JSON, the values of these fields; elsewhere, numbers.
fn mask(line: &str) -> String {
    const NUMBERS: [&str; 4] = ["node_count", "pod_count", "namespace_count", "restarts"];
    const RANDOM_ENDS: [&str; 2] = ["agent-", "migrate-"];
    fn walk(key: &str, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| walk(key, value)),
            Value::Number(_) if NUMBERS.contains(&key) => *value = "a number".into(),
            Value::String(text) => {
                let end = RANDOM_ENDS.iter().find(|prefix| key == "name" && text.starts_with(**prefix));
                let masked = match (key, end) {
                    ("operation_id" | "auditID", _) => Some("an id".to_owned()),
                    (key, _) if key.ends_with("_at") => Some(digits(text)),
                    ("api_server", _) => Some(digits(text)),
                    (_, Some(prefix)) => Some(format!("{prefix}…")),
                    _ => None,
                };
                *value = masked.unwrap_or_else(|| text.clone()).into();
            }
            _ => {}
        }
    }
    match serde_json::from_str::<Value>(line) {
        Ok(mut value) if value.is_object() => {
            walk("", &mut value);
            value.to_string()
        }
        _ => digits(line),
    }
}

/// The text with a 0 for each number.
fn digits(text: &str) -> String {
    let mut masked = String::new();
    for c in text.chars() {
        match (c.is_ascii_digit(), masked.ends_with('0')) {
            (true, true) => {}
            (true, false) => masked.push('0'),
            (false, _) => masked.push(c),
        }
    }
    masked
}

/// A process in a terminal of its own (`script`), as the first password is shown only on one; its output goes to a file.
struct Terminal(Child, PathBuf);

impl Terminal {
    fn run(command: &str, at: &Path, folder: &Path, settings: &[(&str, &str)]) -> Self {
        let output = folder.join("terminal.log");
        let child = Command::new("script")
            .args(["--quiet", "--return", "--command", &format!("exec {command}"), "/dev/null"])
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .envs(settings.iter().copied())
            .current_dir(at)
            .stdin(Stdio::piped())
            .stdout(fs::File::create(&output).unwrap())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("script (Debian: bsdutils) runs");
        Self(child, output)
    }

    fn lines(&self) -> Vec<String> {
        let said = fs::read_to_string(&self.1).unwrap();
        said.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| line.trim().to_owned())
            .collect()
    }
}

impl Terminal {
    /// Presses Ctrl-C, waits for the end, and returns all that was said.
    async fn interrupt(mut self) -> Vec<String> {
        let mut keyboard = self.0.stdin.take().expect("stdin is piped");
        keyboard.write_all(b"\x03").unwrap();
        let status = eventually("the end after Ctrl-C", async || self.0.try_wait().unwrap()).await;
        assert!(status.success(), "{status}: {:#?}", self.lines());
        self.lines()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // after a failed test; it hands the signal on, so that what runs in it ends too
        if let Ok(None) = self.0.try_wait() {
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
            let _ = self.0.wait();
        }
    }
}

/// The README's cluster: the samples of the demo, settled.
async fn settled(plane: &ControlPlane) {
    let admin = plane.client();
    apply(&admin, &workloads::samples("demo")).await;
    let path = |part: &str| format!("/apis/apps/v1/namespaces/demo/{part}");
    let ready = |field: &'static str, wanted: i64| move |object: &Value| object["status"][field] == wanted;
    admin.wait_until(&path("deployments/web"), ready("availableReplicas", 2), PATIENCE).await.unwrap();
    admin.wait_until(&path("statefulsets/db"), ready("availableReplicas", 1), PATIENCE).await.unwrap();
    admin.wait_until(&path("daemonsets/agent"), ready("numberAvailable", 1), PATIENCE).await.unwrap();
    let done = |job: &Value| job["status"]["succeeded"] == 1;
    admin.wait_until("/apis/batch/v1/namespaces/demo/jobs/migrate", done, PATIENCE).await.unwrap();
    let failing = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"].as_i64() >= Some(3)
            && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    admin.wait_until("/api/v1/namespaces/demo/pods/broken", failing, PATIENCE).await.unwrap();
}

#[test]
fn both_languages_show_the_same_commands_and_the_same_output() {
    assert_eq!(blocks(ENGLISH), blocks(CHINESE));
}

/// What both must name, whatever the words between: headings, items and rows by their number, and what stands in
/// backticks.
#[test]
fn both_languages_tell_of_the_same_things() {
    let shape =
        |page: &str| ["#", "- ", "|"].map(|mark| page.lines().filter(|line| line.starts_with(mark)).count());
    assert_eq!(shape(ENGLISH), shape(CHINESE), "headings, items, rows of tables");
    let code =
        |page: &'static str| -> BTreeSet<&'static str> { page.split('`').skip(1).step_by(2).collect() };
    let differing: Vec<_> = code(ENGLISH).symmetric_difference(&code(CHINESE)).copied().collect();
    assert!(differing.is_empty(), "only one of them names {differing:?}");
}

/// An overview waits a second and a half for clusters that are asked for the first time, which a busy machine may take.
fn asked_first(command: &str) -> &'static str {
    if command.contains("k8s/overview?kind=nodes") { "get 'k8s/nodes?cluster_id=1' >/dev/null\n" } else { "" }
}

#[tokio::test]
async fn every_command_prints_what_the_readme_says() {
    if !shared_has_node().await.expect("a node where one is required") {
        return;
    }
    let plane = shared().await.unwrap();
    settled(plane).await;
    let folder = Folder::create().unwrap();
    fs::create_dir(folder.path().join(".kube")).unwrap();
    fs::write(folder.path().join(".kube/config"), plane.kubeconfig()).unwrap();
    let mut steps = steps(ENGLISH);
    steps.retain(|step| !["cargo demo", "cargo test --workspace"].contains(&step.command.as_str()));

    let serve = steps.remove(0);
    assert_eq!(serve.command, "cargo run --release -p pilothouse -- serve");
    let built = format!("{} serve", env!("CARGO_BIN_EXE_pilothouse"));
    let settings = [
        ("PILOTHOUSE_LISTEN", "127.0.0.1:0"),
        ("PILOTHOUSE_EGRESS_ALLOW_LOOPBACK", "true"),
        ("PILOTHOUSE_LOG", "warn"),
    ];
    let terminal = Terminal::run(&built, folder.path(), folder.path(), &settings);
    let said =
        eventually("what the server says", async || Some(terminal.lines()).filter(|said| said.len() >= 2))
            .await;
    let password =
        said[0].strip_prefix("first user: admin, password: ").expect("the first line of the README");
    let address = said[1].strip_prefix("pilothouse listening on ").expect("its second line");
    assert!(serve.prints[0].starts_with("first user: admin, password: "), "{serve:?}");
    assert_eq!(serve.prints[1], format!("pilothouse listening on {ADDRESS}"));

    let audit_log = plane.dir().map(|folder| folder.join("audit.log")).unwrap_or_default();
    let script: Vec<_> = steps
        .iter()
        .map(|step| {
            let command = substitute(&step.command, password, address, &audit_log);
            format!("{}{command}\necho; echo =====", asked_first(&step.command))
        })
        .collect();
    let output = Command::new("bash")
        .arg("-c")
        .arg(script.join("\n"))
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder.path())
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "nothing goes wrong");
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut printed = printed.split("=====\n");
    for step in &steps {
        let printed: Vec<_> =
            printed.next().unwrap_or_default().lines().filter(|line| !line.is_empty()).collect();
        let masked: Vec<_> = printed.iter().map(|line| mask(line)).collect();
        let expected: Vec<_> = step.prints.iter().map(|line| mask(line)).collect();
        assert_eq!(masked, expected, "{}\nprints\n{}", step.command, printed.join("\n"));
    }
    terminal.interrupt().await;
}

#[tokio::test]
async fn the_demo_is_what_it_prints() {
    let folder = Folder::create().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let build = ["build", "--quiet", "--package", "pilothouse-testbed", "--bin", "demo"];
    assert!(Command::new("cargo").args(build).current_dir(&root).status().unwrap().success());
    let demo = format!("cargo demo {}", env!("CARGO_BIN_EXE_pilothouse"));
    let environment: Vec<_> = env::vars().collect();
    let environment: Vec<_> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    let terminal = Terminal::run(&demo, &root, folder.path(), &environment);
    // a cluster with a node, all of it new
    let said = within(2 * PATIENCE, "the end of the introduction", async || {
        Some(terminal.lines()).filter(|said| said.iter().any(|line| line == "Ctrl-C ends it."))
    })
    .await;
    let lines: Vec<_> =
        said.iter().filter(|line| line.starts_with("TOKEN=") || line.starts_with("curl ")).cloned().collect();
    assert_eq!(lines.len(), 3, "{said:#?}");
    let output = Command::new("bash").arg("-c").arg(lines.join("\necho\n")).output().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    let succeeded = answers.lines().filter(|line| line.starts_with(r#"{"success":true"#)).count();
    assert_eq!(succeeded, 2, "{answers}");
    assert_eq!(terminal.interrupt().await.last().map(String::as_str), Some("ended; nothing is left"));
}
