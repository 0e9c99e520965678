//! Retention on the in-memory ports: removed entries, the copies required before, and the remaining trail.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Mutex, time::Duration};

use async_trait::async_trait;
use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::{AccessRequest, Caller, Resource, Verb},
    app::{App, AppSettings},
    audit::{
        Archive, Batch, Checkpoint, CheckpointSigner as _, Cursor, Export, ExportFormat, ExportQuery, Part,
        Retained, Signatures, TrailReader as _, Verdict, verify_export,
    },
    clock::Clock as _,
    kind::Kind,
    operation::{AuditWriter as _, Outcome},
    role::Role,
    testing::{
        fake::{Fake, FakeSigner},
        permit,
    },
};

/// An archive in memory. If `broken`, storing a part fails.
#[derive(Default)]
struct MemoryArchive {
    parts: Mutex<Vec<(i64, i64, String)>>,
    broken: bool,
}

#[async_trait]
impl Archive for MemoryArchive {
    async fn store(&self, part: &Part, mut export: Export) -> Result<()> {
        let mut text = String::new();
        while let Some(lines) = export.next().await? {
            text.push_str(&lines);
        }
        if self.broken {
            return Err(Error::internal("full"));
        }
        assert!(part.matches(&verified(&text)));
        self.parts.lock().unwrap().push((part.first, part.checkpoint.sequence, text));
        Ok(())
    }
}

struct Fixture {
    fake: Fake,
    app: App,
}

impl Fixture {
    /// A hundred operations, ten seconds apart, half of them with separate intent and outcome, and a checkpoint each
    /// minute.
    fn new() -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings::default());
        let fixture = Self { fake, app };
        for n in 0..100 {
            fixture.operate(n);
        }
        block_on(fixture.app.audit.update_checkpoints(Checkpoint::AGE)).unwrap();
        fixture
    }

    fn operate(&self, n: u32) {
        let access =
            AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment)).named(format!("web-{n}"));
        let mut operation = permit(&Caller::command_line("ann"), access).operation().unwrap().clone();
        operation.created_at = self.fake.runtime.clock.now();
        let outcome = Outcome::success(operation.created_at);
        if n.is_multiple_of(2) {
            block_on(self.fake.store.record(&operation, &outcome)).unwrap();
        } else {
            block_on(self.fake.store.begin(&operation)).unwrap();
            block_on(self.fake.store.finish(operation.id, &outcome)).unwrap();
        }
        self.fake.runtime.clock.advance(Duration::from_secs(10));
    }

    fn now(&self) -> Timestamp {
        self.fake.runtime.clock.now()
    }

    fn prune(&self, before: Timestamp, kept: Retained<'_>) -> Result<u64> {
        block_on(self.app.audit.prune(&Caller::command_line("ann"), before, kept))
    }

    fn verdict(&self) -> Verdict {
        let verdict = block_on(self.app.audit.verify(&Caller::system())).unwrap();
        assert_eq!(verdict.first_bad, None);
        verdict
    }

    fn exported(&self, format: ExportFormat) -> String {
        let query = ExportQuery { format, ..ExportQuery::default() };
        let mut export = block_on(self.app.audit.export(&Caller::system(), query)).unwrap();
        let mut text = String::new();
        while let Some(lines) = block_on(export.next()).unwrap() {
            text.push_str(&lines);
        }
        text
    }
}

fn verified(text: &str) -> Verdict {
    let signer = FakeSigner::default();
    let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: Checkpoint::EVERY };
    verify_export(text.split_inclusive('\n').map(|line| Ok(line.as_bytes().to_vec())), signatures).unwrap()
}

#[test]
fn archived_old_entries_are_removed_and_the_rest_is_valid() {
    let fixture = Fixture::new();
    let (all, rows) = (fixture.verdict().entries, fixture.fake.store.all_operations());
    let archive = MemoryArchive::default();
    let middle = fixture.now() - Duration::from_secs(500);
    let removed = fixture.prune(middle, Retained::Archived(&archive)).unwrap();
    assert!(removed > 60 && removed < 90, "{removed} of {all}");
    let verdict = fixture.verdict();
    assert_eq!(verdict.removed, removed);
    assert_eq!(verdict.entries, all - removed + 1, "the removal is itself an entry");

    // the archive contains the removed entries, complete
    let kept = archive.parts.lock().unwrap().clone();
    let mut next = 1;
    for (first, last, text) in &kept {
        assert_eq!(*first, next);
        let verdict = verified(text);
        assert_eq!((verdict.first_bad, verdict.head.sequence), (None, *last));
        assert_eq!(verdict.entries, (last - first + 1).unsigned_abs());
        next = last + 1;
    }
    assert_eq!(next - 1, removed.cast_signed());

    // the operations list does not contain the removed operations; new ids are greater than theirs
    let left = fixture.fake.store.all_operations();
    let (own, old) = left.split_last().unwrap();
    assert!(old.len() < rows.len() && rows.ends_with(old));
    assert_eq!((&*own.operation_type, &*own.resource_type), ("prune", "operation"));
    assert_eq!(own.username, "cli:ann");
    assert!(own.id > rows.last().unwrap().id);

    // exports begin at the trail start
    let export = verified(&fixture.exported(ExportFormat::Jsonl));
    assert_eq!((export.first_bad, export.entries), (None, all - removed + 1));
    assert!(!fixture.exported(ExportFormat::K8s).is_empty());
    assert_eq!(fixture.prune(middle, Retained::Archived(&archive)).unwrap(), 0, "already removed");
    assert_eq!(archive.parts.lock().unwrap().len(), kept.len());
}

#[test]
fn unarchived_recent_and_pending_entries_are_not_removed() {
    let fixture = Fixture::new();
    let all = fixture.verdict().entries;
    let late = fixture.now() + Duration::from_secs(1);
    let broken = MemoryArchive { broken: true, ..MemoryArchive::default() };
    assert_eq!(fixture.prune(late, Retained::Archived(&broken)).unwrap_err().cause, Cause::Internal);
    assert_eq!(fixture.verdict().removed, 0);
    assert_eq!(
        fixture.prune(Timestamp::UNIX_EPOCH, Retained::Archived(&MemoryArchive::default())).unwrap(),
        0,
        "no entry is that old"
    );
    assert_eq!(fixture.prune(late, Retained::Delivered(0)).unwrap(), 0, "nothing was delivered");
    assert_eq!(fixture.verdict().entries, all);

    // a part was delivered
    let delivered = block_on(fixture.fake.store.checkpoints(0, 3)).unwrap().pop().unwrap().sequence;
    assert_eq!(fixture.prune(late, Retained::Delivered(delivered)).unwrap(), delivered.unsigned_abs());
    assert_eq!(fixture.verdict().removed, delivered.unsigned_abs());
    assert_eq!(
        fixture.prune(late, Retained::ArchivedAndDelivered(&MemoryArchive::default(), delivered)).unwrap(),
        0
    );

    // a pending operation retains its intent and all later entries
    let fixture = Fixture::new();
    let access = AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment)).named("slow");
    let operation = permit(&Caller::command_line("ann"), access).operation().unwrap().clone();
    block_on(fixture.fake.store.begin(&operation)).unwrap();
    let begun = block_on(fixture.fake.store.head()).unwrap().1.sequence;
    for n in 0..40 {
        fixture.operate(n);
    }
    block_on(fixture.app.audit.update_checkpoints(Checkpoint::AGE)).unwrap();
    let late = fixture.now() + Duration::from_secs(1);
    fixture.prune(late, Retained::Archived(&MemoryArchive::default())).unwrap();
    assert!(fixture.verdict().removed < begun.unsigned_abs());
    block_on(fixture.fake.store.finish(operation.id, &Outcome::success(fixture.now()))).unwrap();
    block_on(fixture.app.audit.update_checkpoints(Checkpoint::AGE)).unwrap();
    fixture.prune(late, Retained::Archived(&MemoryArchive::default())).unwrap();
    assert!(fixture.verdict().removed > begun.unsigned_abs());
    assert!(
        !fixture.exported(ExportFormat::K8s).contains("\"slow\""),
        "the intent is removed, the outcome may remain"
    );

    let ops = Caller::system().with_role(Role::OpsAdmin);
    let refused =
        block_on(fixture.app.audit.prune(&ops, fixture.now(), Retained::Archived(&MemoryArchive::default())));
    assert_eq!(refused.unwrap_err().cause, Cause::RoleTooLow);
}

/// An archive with the same sequence numbers and another history: after a restore, or of another trail.
#[test]
fn part_matches_only_an_export_of_the_same_entries() {
    let kept = |fixture: &Fixture| {
        let archive = MemoryArchive::default();
        fixture.prune(fixture.now() - Duration::from_secs(500), Retained::Archived(&archive)).unwrap();
        archive.parts.into_inner().unwrap().remove(0)
    };
    let (first, last, text) = kept(&Fixture::new());
    // operation ids differ
    let (other_first, other_last, other) = kept(&Fixture::new());
    assert_eq!((first, last), (other_first, other_last));
    let verdict_of = |text: &str| verified(text);
    let head = verdict_of(&text).head;
    let checkpoint =
        Checkpoint::sign(&FakeSigner::default(), &verdict_of(&text).trail, head, Timestamp::UNIX_EPOCH);
    let part = Part { first, checkpoint, keys: vec![FakeSigner::default().public_key()] };
    assert!(part.matches(&verdict_of(&text)));
    assert!(verdict_of(&other).valid && !part.matches(&verdict_of(&other)));
    let of_another = Checkpoint { trail: "another".to_owned(), ..part.checkpoint.clone() };
    assert!(!Part { checkpoint: of_another, ..part.clone() }.matches(&verdict_of(&text)));
    assert!(!Part { first: first + 1, ..part }.matches(&verdict_of(&text)));
}

#[test]
fn corrupt_trail_is_neither_archived_nor_removed() {
    for with_checkpoints in [false, true] {
        let fixture = Fixture::new();
        fixture.fake.store.rewrite(|text| text.replace("\"web-3\"", "\"web-4\""), with_checkpoints);
        let archive = MemoryArchive::default();
        let late = fixture.now() + Duration::from_secs(1);
        for kept in [Retained::Archived(&archive), Retained::Delivered(i64::MAX)] {
            let done = fixture.prune(late, kept);
            assert!(done.as_ref().is_ok_and(|removed| *removed == 0) || done.is_err(), "{done:?}");
        }
        assert!(archive.parts.lock().unwrap().is_empty());
        assert_eq!(block_on(fixture.fake.store.trail_start()).unwrap(), None);
    }
}

/// A clock that is set forward by a year makes no entry old.
#[test]
fn age_is_measured_in_elapsed_time() {
    let age = Duration::from_secs(500);
    let old = |fixture: &Fixture| {
        block_on(fixture.app.audit.prune_older(&Caller::system(), age, Retained::Delivered(i64::MAX)))
    };
    let fixture = Fixture::new();
    let removed = old(&fixture).unwrap();
    assert!(removed > 60, "old entries are removed: {removed}");

    let fixture = Fixture::new();
    fixture.fake.runtime.clock.jump(jiff::SignedDuration::from_hours(365 * 24));
    let as_before = old(&fixture).unwrap();
    assert_eq!(as_before, removed, "a clock change makes no entry older");
    for n in 0..3 {
        fixture.operate(n);
    }
    assert_eq!(old(&fixture).unwrap(), 0, "entries written after the clock change make no entry older");

    // a process that starts with a wrong clock cannot measure the elapsed time, but detects that no entry is recent
    let fixture = Fixture::new();
    fixture.fake.runtime.clock.jump(jiff::SignedDuration::from_hours(365 * 24));
    let begun = App::new(fixture.fake.ports(), AppSettings::default());
    block_on(begun.audit.prune_older(&Caller::system(), age, Retained::Delivered(i64::MAX))).unwrap_err();
    assert_eq!(fixture.verdict().removed, 0);
    // a user may still request the removal explicitly
    assert!(fixture.prune(fixture.now(), Retained::Delivered(i64::MAX)).unwrap() > 0);
}

#[test]
fn first_delivery_starts_at_the_trail_start() {
    let fixture = Fixture::new();
    let all = fixture.verdict().entries;
    let removed = fixture
        .prune(fixture.now() - Duration::from_secs(500), Retained::Archived(&MemoryArchive::default()))
        .unwrap();
    let (mut delivered, mut lines) = (Cursor::default(), String::new());
    while let Some(batch) = block_on(Batch::after(&*fixture.fake.store, delivered)).unwrap() {
        assert!(batch.cursor.sequence > delivered.sequence || batch.cursor.checkpoint > delivered.checkpoint);
        delivered = batch.cursor;
        lines.push_str(&batch.lines);
    }
    let entries: Vec<_> = lines.lines().filter(|line| line.starts_with("{\"sequence\":")).collect();
    assert_eq!(entries.len() as u64, all - removed + 1);
    assert!(entries[0].starts_with(&format!("{{\"sequence\":{},", removed + 1)), "{}", entries[0]);
    // the same lines as in an export, after its header
    let export = fixture.exported(ExportFormat::Jsonl);
    assert!(export.lines().skip(1).filter(|line| !line.contains("checkpoint")).eq(entries));
}
