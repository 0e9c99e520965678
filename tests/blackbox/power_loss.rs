//! Power loss, as far as it can be simulated: on files copied while the server stands still, and on files rebuilt from a
//! trace of its system calls with only what it had made durable. Opened afterwards SQLite is whole, the trail verifies, and
//! nothing is missing that was answered.
//!
//! `PILOTHOUSE_TEST_POWER_LOSSES` is how many of each (`just power-loss 500`), `PILOTHOUSE_TEST_POWER_LOSSES_SEED` from what
//! their moments are drawn.

mod disk;
mod load;
mod trace;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use pilothouse_testbed::can_trace_or_skip;
use serde_json::json;
use tokio::time::sleep;

use self::{
    disk::{Answered, Disk, Unsynced},
    load::{Answers, callers, check, serves},
    trace::Event,
};
use crate::support::{Install, Random, eventually, set};

/// As many of each, where the environment does not say.
const USUAL: u64 = 6;
/// Copies of one run of the server, and moments of one trace.
const PER_RUN: u64 = 40;
const CALLERS: u64 = 6;
/// Between two copies, at most; in milliseconds.
const PAUSE: u64 = 250;
/// How many answers there are in a trace: SQLite starts its log anew after about a hundred commits.
const ANSWERS: usize = 300;

fn begin() -> (u64, Random) {
    let losses = set("PILOTHOUSE_TEST_POWER_LOSSES").unwrap_or(USUAL);
    let seed = set("PILOTHOUSE_TEST_POWER_LOSSES_SEED");
    let seed = seed.unwrap_or_else(|| Timestamp::now().as_microsecond().cast_unsigned());
    eprintln!("{losses} power losses; PILOTHOUSE_TEST_POWER_LOSSES_SEED={seed}");
    (losses, Random(seed))
}

fn in_memory(path: &Path) -> bool {
    // the index of the write-ahead log is shared memory with a name, and the lock is nobody's when nobody runs
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.ends_with("-shm") || name.ends_with(".lock")
}

/// Another install with the files of this one's data folder.
fn copy(install: &Install) -> Install {
    let copy = Install::on_sqlite();
    fs::DirBuilder::new().mode(0o700).create(copy.data_dir()).unwrap();
    for entry in fs::read_dir(install.data_dir()).unwrap().flatten() {
        if !in_memory(&entry.path()) {
            fs::copy(entry.path(), copy.data_dir().join(entry.file_name())).unwrap();
        }
    }
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn files_copied_while_the_server_stands_still_are_whole_and_hold_all_that_was_answered() {
    let (losses, mut random) = begin();
    let mut done = 0;
    while done < losses {
        let server = Install::on_sqlite().set("ACCESS_TOKEN_LIFETIME", "8h").start().await;
        let (admin, answers) = (server.admin().await, Answers::default());
        let mut callers = callers(&admin, CALLERS, &mut random, &answers).await;
        for _ in 0..PER_RUN.min(losses - done) {
            sleep(random.pause(PAUSE)).await;
            server.stand_still().await;
            let copy = copy(&server.install);
            // it sends nothing while it stands still: these it sent before
            let answered = answers.so_far();
            server.go_on();
            check(&copy, &answered);
            done += 1;
            if random.below(8) == 0 || done == losses {
                serves(copy).await;
            }
        }
        assert!(!answers.so_far().is_empty(), "there is a load");
        drop(server.kill().await);
        while callers.join_next().await.is_some() {}
    }
}

/// A finished trace.
async fn finished(trace: &Path) -> Vec<Event> {
    // the tracer writes the end of every thread before it ends itself
    let text = eventually("the end of the trace", async || {
        let text = fs::read_to_string(trace).unwrap_or_default();
        let process = text.split(' ').next().unwrap_or_default();
        let ended = text
            .lines()
            .rev()
            .filter_map(|line| line.split_once(' '))
            .any(|(thread, rest)| thread == process && rest.trim_start().starts_with("+++"));
        ended.then_some(text)
    });
    trace::read(&text.await)
}

/// What is in the folder of an install's data, by name; what is only memory is left out.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let files = entries.filter(|path| !in_memory(path));
    files.map(|path| (path.file_name().unwrap().into(), fs::read(path).unwrap())).collect()
}

fn rebuilt(disk: &Disk, unsynced: Unsynced<'_>) -> Install {
    // with a random first password, in a file
    let install = Install::on_sqlite().unset("ADMIN_PASSWORD");
    disk.rebuild(install.folder(), unsynced);
    install
}

/// Runs a server under a load from its first start to its end: the disk before, all it did, the answers.
async fn traced(random: &mut Random) -> (Install, Disk, Vec<Event>, Answers) {
    let install = Install::on_sqlite().unset("ADMIN_PASSWORD").set("ACCESS_TOKEN_LIFETIME", "8h");
    let disk = Disk::of(install.folder());
    let trace = install.folder().join("trace");
    let server = install.traced(trace.clone()).start().await;
    let password = fs::read_to_string(server.install.file("initial-admin-password")).unwrap();
    let (admin, answers) = (server.client().sign_in("admin", password.trim()).await, Answers::default());
    let mut callers = callers(&admin, CALLERS, random, &answers).await;
    eventually("so many answers", async || (answers.so_far().len() >= ANSWERS).then_some(())).await;
    // not killed: of a call that a kill interrupts the tracer does not know whether it was made
    let install = server.stop().await;
    while callers.join_next().await.is_some() {}
    let events = finished(&trace).await;
    (install, disk, events, answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_synced_is_whole_and_holds_all_that_was_answered() {
    if !can_trace_or_skip().unwrap() {
        return;
    }
    let (losses, mut random) = begin();
    let mut done = 0;
    while done < losses {
        let count = PER_RUN.min(losses - done);
        done += count;
        let (install, mut disk, events, answers) = traced(&mut random).await;
        // a third of the moments is before the first answer, when key, database and first user are made
        let first = disk_before_answers(&install, &events);
        let mut moments: Vec<_> = (0..count)
            .map(|n| match n % 3 {
                0 => random.below(first as u64) as usize,
                _ => first + random.below((events.len() - first) as u64) as usize,
            })
            .collect();
        moments.sort_unstable();

        let answers = answers.so_far();
        let (mut sent, mut unsynced, mut moments) = (BTreeMap::new(), 0, moments.into_iter().peekable());
        for (number, event) in events.iter().enumerate() {
            while moments.next_if_eq(&number).is_some() {
                unsynced += disk.unsynced();
                let lost = rebuilt(&disk, Unsynced::Lost);
                check(&lost, &sent);
                let torn = rebuilt(&disk, Unsynced::Torn(&mut random));
                check(&torn, &sent);
                if sent.is_empty() || random.below(8) == 0 {
                    serves(lost).await;
                    serves(torn).await;
                }
            }
            if let Some(Answered { status: 200, request }) = disk.step(event)
                && let Some(done) = answers.get(&request)
            {
                sent.insert(request, done.clone());
            }
        }
        // the trace is complete: without a power loss there is what there is, and every answer was seen
        assert_eq!(sent.len(), answers.len());
        let kept = rebuilt(&disk, Unsynced::Kept);
        assert!(contents(&kept.data_dir()) == contents(&install.data_dir()), "rebuilt as they are");
        check(&kept, &answers);
        eprintln!(
            "{done} moments, the last {count} among {} calls with {} answers; {unsynced} changes were lost or torn",
            events.len(),
            answers.len()
        );
    }
}

/// The place of the first answer of all.
fn disk_before_answers(install: &Install, events: &[Event]) -> usize {
    let mut disk = Disk::of(&install.folder().join("nowhere"));
    events.iter().position(|event| disk.step(event).is_some()).expect("an answer")
}

/// Runs a command under trace, in an install that there is; what of its folder is synced when it has ended.
async fn synced_after(install: Install, arguments: &[&str]) -> (Install, Install) {
    let before = Disk::of(install.folder());
    let trace = install.folder().join(format!("trace-{}", arguments[0]));
    let install = install.traced(trace.clone());
    let output = install.run(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let mut disk = before;
    for event in finished(&trace).await {
        disk.step(&event);
    }
    let synced = rebuilt(&disk, Unsynced::Lost);
    (install, synced)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_a_restored_database_and_a_new_key_are_durable_when_their_commands_end() {
    if !can_trace_or_skip().unwrap() {
        return;
    }
    let server = Install::on_sqlite().start().await;
    let admin = server.admin().await;
    admin.add_user("ann", "viewer").await;
    let install = server.stop().await;

    let backup = install.folder().join("backup").display().to_string();
    let (install, synced) = synced_after(install, &["backup", &backup]).await;
    let file = synced.folder().join("backup");
    assert_eq!(fs::read(&file).expect("the backup"), fs::read(&backup).unwrap());

    let elsewhere = Install::on_sqlite();
    fs::DirBuilder::new().mode(0o700).create(elsewhere.data_dir()).unwrap();
    fs::copy(install.file("master.key"), elsewhere.file("master.key")).unwrap();
    let (_, synced) = synced_after(elsewhere, &["restore", &backup]).await;
    let server = synced.start().await;
    let users = server.admin().await.rows("/api/auth/users?sort=id", "users").await;
    assert_eq!(users.iter().map(|user| &user["username"]).collect::<Vec<_>>(), ["admin", "ann"]);
    drop(server);

    let (install, synced) = synced_after(install, &["rekey"]).await;
    assert_eq!(fs::read(synced.file("master.key")).unwrap(), fs::read(install.file("master.key")).unwrap());
    check(&synced, &BTreeMap::new());
    let server = synced.start().await;
    let body = json!({"username": "bob", "password": crate::support::PASSWORD, "role": "viewer"});
    server.admin().await.post("/api/auth/users", body).await.data();
}

#[test]
fn the_model_loses_what_is_not_synced() {
    let root = Path::new("/nowhere/at/all");
    let hex = |text: &str| text.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let path = |name: &str| hex(&root.join(name).display().to_string());
    let file = path("f");
    let start = format!("7 openat(AT_FDCWD, \"{file}\", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3\n");
    let write = |text: &str| format!("7 write(3, \"{}\", {}) = {}\n", hex(text), text.len(), text.len());
    let sync = "7 fsync(3) = 0\n";
    let folder = format!(
        "7 openat(AT_FDCWD, \"{}\", O_RDONLY|O_CLOEXEC) = 4\n7 fsync(4) = 0\n",
        hex("/nowhere/at/all")
    );
    // begun before the second write ends, so not of it
    let crossed = format!("7 fsync(3 <unfinished ...>\n8 {}7 <... fsync resumed>) = 0\n", &write("bc")[2..]);
    let lost = |calls: &[&str]| {
        let mut disk = Disk::of(&PathBuf::from("/nowhere/at/all"));
        for event in trace::read(&calls.concat()) {
            disk.step(&event);
        }
        let into = tempfile::tempdir().unwrap();
        disk.rebuild(into.path(), Unsynced::Lost);
        let mut seen = contents(into.path())
            .into_iter()
            .map(|(name, content)| format!("{}={}", name.display(), String::from_utf8_lossy(&content)));
        seen.next().unwrap_or_default()
    };
    assert_eq!(lost(&[&start, &write("a"), sync, &folder]), "f=a");
    assert_eq!(lost(&[&start, &write("a"), &folder]), "f=", "without the fsync");
    assert_eq!(lost(&[&start, &write("a"), sync]), "", "without the folder's");
    assert_eq!(lost(&[&start, &write("a"), sync, &folder, &write("b")]), "f=a");
    assert_eq!(lost(&[&start, &write("a"), &crossed, &folder]), "f=a");
    assert_eq!(lost(&[&start, &write("a"), &crossed, sync, &folder]), "f=abc");
    let renamed = format!("7 rename(\"{file}\", \"{}\") = 0\n", path("g"));
    assert_eq!(lost(&[&start, &write("a"), sync, &folder, &renamed]), "f=a");
    assert_eq!(lost(&[&start, &write("a"), sync, &folder, &renamed, "7 fsync(4) = 0\n"]), "g=a");
    let cut = "7 ftruncate(3, 1) = 0\n7 fdatasync(3) = 0\n";
    assert_eq!(lost(&[&start, &write("abc"), sync, &folder, cut]), "f=a");

    let mut disk = Disk::of(&PathBuf::from("/nowhere/at/all"));
    let answer = "HTTP/1.1 200 OK\r\nx-request-id: 17\r\n\r\n";
    let sent = format!("7 sendto(9, \"{}\", 36, MSG_NOSIGNAL, NULL, 0 <unfinished ...>\n", hex(answer));
    let answers: Vec<_> = trace::read(&sent).iter().filter_map(|event| disk.step(event)).collect();
    assert_eq!(answers, [Answered { status: 200, request: "17".to_owned() }]);
}
