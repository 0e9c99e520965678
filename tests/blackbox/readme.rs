//! The READMEs as a user follows them: bash runs all their commands in one session, and the test compares the output.
//!
//! The only differences are:
//! - [`substitute`]: the password, the port, the path of the cluster's audit log, and the built binary instead of the
//!   build;
//! - [`mask`]: times, ids, ports, counts and the random suffixes of pod names vary;
//! - [`before`]: one list is read before the overview that counts it, and the problems are awaited;
//! - `cargo demo` gets the built binary too ([`demo_commands_succeed_as_printed`]), and `cargo test --workspace` is
//!   skipped because it runs this test.

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

use crate::support::{apply, control_plane, delete_namespace, eventually, within};

const ENGLISH: &str = include_str!("../../README.md");
const CHINESE: &str = include_str!("../../README.zh.md");
/// The listen address and the audit log path in the READMEs.
const ADDRESS: &str = "http://127.0.0.1:8080";
const AUDIT_LOG: &str = "/var/log/kubernetes/audit.log";
const SETTLE_TIMEOUT: Duration = Duration::from_secs(180);

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

/// A command and its output.
#[derive(Debug)]
struct Step {
    command: String,
    prints: Vec<String>,
}

/// The steps in the command blocks. A `sh` block is one step; in a `console` block each `$ ` starts a step, and its
/// output follows.
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

/// Replaces the values of a README command by those of the test.
fn substitute(command: &str, password: &str, address: &str, audit_log: &Path) -> String {
    command
        .replace("the one printed", password)
        .replace(ADDRESS, address)
        .replace(AUDIT_LOG, &audit_log.display().to_string())
}

/// Masks values that differ between runs: in JSON, these fields; in other lines, numbers.
fn mask(line: &str) -> String {
    const NUMBERS: [&str; 4] = ["node_count", "pod_count", "namespace_count", "restarts"];
    const RANDOM_NAME_PREFIXES: [&str; 2] = ["agent-", "migrate-"];
    fn walk(key: &str, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| walk(key, value)),
            Value::Number(_) if NUMBERS.contains(&key) => *value = "a number".into(),
            Value::String(text) => {
                let prefix =
                    RANDOM_NAME_PREFIXES.iter().find(|prefix| key == "name" && text.starts_with(**prefix));
                let masked = match (key, prefix) {
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

/// Replaces each number with 0.
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

/// A process in a separate terminal (`script`), because the initial password is shown only on a terminal. The output is
/// written to a file.
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
        let output_lines = fs::read_to_string(&self.1).unwrap();
        output_lines
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| line.trim().to_owned())
            .collect()
    }
}

impl Terminal {
    /// Sends Ctrl-C, waits for the end, and returns all output lines.
    async fn interrupt(mut self) -> Vec<String> {
        let mut keyboard = self.0.stdin.take().expect("stdin is piped");
        keyboard.write_all(b"\x03").unwrap();
        let status = eventually("the process ends after Ctrl-C", async || self.0.try_wait().unwrap()).await;
        assert!(status.success(), "{status}: {:#?}", self.lines());
        self.lines()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // the process still runs after a failed test; `script` forwards the signal to its child
        if let Ok(None) = self.0.try_wait() {
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
            let _ = self.0.wait();
        }
    }
}

/// The cluster of the README: the samples of the demo, in their final state.
async fn wait_until_settled(plane: &ControlPlane) {
    let admin = plane.client();
    apply(&admin, &workloads::samples("demo")).await;
    let path = |part: &str| format!("/apis/apps/v1/namespaces/demo/{part}");
    let ready =
        |field: &'static str, expected: i64| move |object: &Value| object["status"][field] == expected;
    admin.wait_until(&path("deployments/web"), ready("availableReplicas", 2), SETTLE_TIMEOUT).await.unwrap();
    admin.wait_until(&path("statefulsets/db"), ready("availableReplicas", 1), SETTLE_TIMEOUT).await.unwrap();
    admin.wait_until(&path("daemonsets/agent"), ready("numberAvailable", 1), SETTLE_TIMEOUT).await.unwrap();
    let done = |job: &Value| job["status"]["succeeded"] == 1;
    admin.wait_until("/apis/batch/v1/namespaces/demo/jobs/migrate", done, SETTLE_TIMEOUT).await.unwrap();
    let failing = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"].as_i64() >= Some(3)
            && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    admin.wait_until("/api/v1/namespaces/demo/pods/broken", failing, SETTLE_TIMEOUT).await.unwrap();
}

#[test]
fn readme_commands_and_outputs_equal_in_both_languages() {
    assert_eq!(blocks(ENGLISH), blocks(CHINESE));
}

/// Both languages have the same number of headings, items and rows, and the same texts in backticks.
#[test]
fn readme_structure_and_code_equal_in_both_languages() {
    let shape =
        |page: &str| ["#", "- ", "|"].map(|mark| page.lines().filter(|line| line.starts_with(mark)).count());
    assert_eq!(shape(ENGLISH), shape(CHINESE), "headings, items, table rows");
    let code =
        |page: &'static str| -> BTreeSet<&'static str> { page.split('`').skip(1).step_by(2).collect() };
    let differing: Vec<_> = code(ENGLISH).symmetric_difference(&code(CHINESE)).copied().collect();
    assert!(differing.is_empty(), "only one language contains {differing:?}");
}

/// What runs before a command. An overview waits 1.5 s for clusters that it reads for the first time; a busy machine may
/// take longer. A new pod needs seconds until the node cannot pull its image.
fn before(command: &str) -> &'static str {
    if command.contains("k8s/overview?kind=nodes") {
        "get 'k8s/nodes?cluster_id=1' >/dev/null\n"
    } else if command.contains("k8s/problems?") {
        "for _ in $(seq 120); do get 'k8s/problems?namespace=demo&rule=image_pull&level=bad' | \
         jq -e '.data.problems | length > 0' >/dev/null && break; sleep 1; done\n"
    } else {
        ""
    }
}

#[tokio::test]
async fn readme_commands_print_the_documented_output() {
    if !shared_has_node().await.expect("a node, if one is required") {
        return;
    }
    let plane = shared().await.unwrap();
    wait_until_settled(plane).await;
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
    let output_lines = eventually("the password and the listen address", async || {
        Some(terminal.lines()).filter(|output_lines| output_lines.len() >= 2)
    })
    .await;
    let password =
        output_lines[0].strip_prefix("first user: admin, password: ").expect("the first line of the README");
    let address = output_lines[1].strip_prefix("pilothouse listening on ").expect("its second line");
    assert!(serve.prints[0].starts_with("first user: admin, password: "), "{serve:?}");
    assert_eq!(serve.prints[1], format!("pilothouse listening on {ADDRESS}"));

    let audit_log = plane.dir().map(|folder| folder.join("audit.log")).unwrap_or_default();
    let script: Vec<_> = steps
        .iter()
        .map(|step| {
            let command = substitute(&step.command, password, address, &audit_log);
            format!("{}{command}\necho; echo =====", before(&step.command))
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
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "no command writes to standard error");
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
    delete_namespace(&plane.client(), "demo").await;
}

/// Runs `cargo demo` with the built server and more options, and returns when it has printed the commands.
async fn run_demo(options: &str, folder: &Path) -> (Terminal, Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let build = ["build", "--quiet", "--workspace", "--bin", "demo", "--bin", "pilothouse-demo"];
    assert!(Command::new("cargo").args(build).current_dir(&root).status().unwrap().success());
    let demo = format!("cargo demo -- --server {} {options}", env!("CARGO_BIN_EXE_pilothouse"));
    let environment: Vec<_> = env::vars().collect();
    let environment: Vec<_> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    let terminal = Terminal::run(&demo, &root, folder, &environment);
    // may include the start of a cluster with a node
    let output_lines = within(2 * SETTLE_TIMEOUT, "the introduction of the demo", async || {
        Some(terminal.lines())
            .filter(|output_lines| output_lines.iter().any(|line| line == "Press Ctrl-C to stop the demo."))
    })
    .await;
    (terminal, output_lines)
}

/// Runs the three commands of the demo, and checks that the last two succeed.
fn run_printed_commands(output_lines: &[String]) {
    let is_command = |line: &&String| line.starts_with("TOKEN=") || line.starts_with("curl ");
    let lines: Vec<_> = output_lines.iter().filter(is_command).cloned().collect();
    assert_eq!(lines.len(), 3, "{output_lines:#?}");
    let output = Command::new("bash").arg("-c").arg(lines.join("\necho\n")).output().unwrap();
    let responses = String::from_utf8(output.stdout).unwrap();
    let succeeded = responses.lines().filter(|line| line.starts_with(r#"{"success":true"#)).count();
    assert_eq!(succeeded, 2, "{responses}");
}

async fn end_demo(terminal: Terminal) {
    assert_eq!(
        terminal.interrupt().await.last().map(String::as_str),
        Some("ended; all processes and files of the demo are removed")
    );
}

#[tokio::test]
async fn demo_commands_succeed_as_printed() {
    let folder = Folder::create().unwrap();
    let (terminal, output_lines) = run_demo("", folder.path()).await;
    run_printed_commands(&output_lines);
    end_demo(terminal).await;
}

#[tokio::test]
async fn demo_with_a_kubeconfig_changes_nothing_in_the_cluster() {
    let plane = control_plane().await;
    let folder = Folder::create().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    fs::write(&kubeconfig, plane.kubeconfig()).unwrap();
    let options = format!("--kubeconfig {}", kubeconfig.display());
    let (terminal, output_lines) = run_demo(&options, folder.path()).await;
    run_printed_commands(&output_lines);
    end_demo(terminal).await;
    // a review asks the API server for the permissions of its sender, and stores nothing
    let changes: Vec<_> = plane
        .audit_events()
        .unwrap()
        .into_iter()
        .filter(|event| event.user_agent.as_deref().is_some_and(|agent| agent.starts_with("pilothouse/")))
        .filter(|event| {
            event.verb != "get"
                && !event.request_uri.contains("/selfsubjectreviews")
                && !event.request_uri.contains("/selfsubjectaccessreviews")
        })
        .collect();
    assert!(changes.is_empty(), "{changes:#?}");
}
