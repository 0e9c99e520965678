//! Retention on the in-memory ports: what goes, what must be elsewhere before, what is left.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{sync::Mutex, time::Duration};

use async_trait::async_trait;
use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::{AccessRequest, Caller, Resource, Role, Verb},
    app::{App, Settings},
    audit::{
        Archive, AuditTrail as _, Batch, Checkpoint, CheckpointSigner as _, Cursor, Export, ExportFormat,
        ExportQuery, Outcome, Part, Retained, Signatures, TrailReader as _, Verdict, verify_export,
    },
    clock::Clock as _,
    kind::Kind,
    testing::{
        fake::{Fake, FakeSigner},
        permit,
    },
};

/// Keeps what it is given; or fails.
#[derive(Default)]
struct Shelf {
    kept: Mutex<Vec<(i64, i64, String)>>,
    broken: bool,
}

#[async_trait]
impl Archive for Shelf {
    async fn keep(&self, part: &Part, mut export: Export) -> Result<()> {
        let mut text = String::new();
        while let Some(lines) = export.next().await? {
            text.push_str(&lines);
        }
        if self.broken {
            return Err(Error::internal("full"));
        }
        assert!(part.is_held_by(&verified(&text)));
        self.kept.lock().unwrap().push((part.first, part.checkpoint.sequence, text));
        Ok(())
    }
}

struct World {
    fake: Fake,
    app: App,
}

impl World {
    /// A hundred operations, half of them begun and ended, ten seconds apart, with a checkpoint each minute.
    fn new() -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), Settings::default());
        let world = Self { fake, app };
        for n in 0..100 {
            world.operate(n);
        }
        block_on(world.app.audit.keep_checkpoints(Checkpoint::AGE)).unwrap();
        world
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
fn what_is_old_goes_once_it_is_kept_and_the_rest_is_whole() {
    let world = World::new();
    let (all, rows) = (world.verdict().entries, world.fake.store.all_operations());
    let shelf = Shelf::default();
    let middle = world.now() - Duration::from_secs(500);
    let removed = world.prune(middle, Retained::Archived(&shelf)).unwrap();
    assert!(removed > 60 && removed < 90, "{removed} of {all}");
    let verdict = world.verdict();
    assert_eq!(verdict.removed, removed);
    assert_eq!(verdict.entries, all - removed + 1, "the removal is an entry of its own");

    // what went is where it was kept, whole
    let kept = shelf.kept.lock().unwrap().clone();
    let mut next = 1;
    for (first, last, text) in &kept {
        assert_eq!(*first, next);
        let verdict = verified(text);
        assert_eq!((verdict.first_bad, verdict.head.sequence), (None, *last));
        assert_eq!(verdict.entries, (last - first + 1).unsigned_abs());
        next = last + 1;
    }
    assert_eq!(next - 1, removed.cast_signed());

    // and no more in the lists; ids go on
    let left = world.fake.store.all_operations();
    let (own, old) = left.split_last().unwrap();
    assert!(old.len() < rows.len() && rows.ends_with(old));
    assert_eq!((&*own.operation_type, &*own.resource_type), ("prune", "operation"));
    assert_eq!(own.username, "cli:ann");
    assert!(own.id > rows.last().unwrap().id);

    // exports begin where the trail does
    let export = verified(&world.exported(ExportFormat::Jsonl));
    assert_eq!((export.first_bad, export.entries), (None, all - removed + 1));
    assert!(!world.exported(ExportFormat::K8s).is_empty());
    assert_eq!(world.prune(middle, Retained::Archived(&shelf)).unwrap(), 0, "once");
    assert_eq!(shelf.kept.lock().unwrap().len(), kept.len());
}

#[test]
fn nothing_goes_that_is_not_kept_or_not_old_or_under_way() {
    let world = World::new();
    let all = world.verdict().entries;
    let late = world.now() + Duration::from_secs(1);
    let broken = Shelf { broken: true, ..Shelf::default() };
    assert_eq!(world.prune(late, Retained::Archived(&broken)).unwrap_err().cause, Cause::Internal);
    assert_eq!(world.verdict().removed, 0);
    assert_eq!(
        world.prune(Timestamp::UNIX_EPOCH, Retained::Archived(&Shelf::default())).unwrap(),
        0,
        "nothing is so old"
    );
    assert_eq!(world.prune(late, Retained::Delivered(0)).unwrap(), 0, "nobody was told");
    assert_eq!(world.verdict().entries, all);

    // told of some of it
    let told = block_on(world.fake.store.checkpoints(0, 3)).unwrap().pop().unwrap().sequence;
    assert_eq!(world.prune(late, Retained::Delivered(told)).unwrap(), told.unsigned_abs());
    assert_eq!(world.verdict().removed, told.unsigned_abs());
    assert_eq!(world.prune(late, Retained::ArchivedAndDelivered(&Shelf::default(), told)).unwrap(), 0);

    // an operation under way keeps its intent, and what came after
    let world = World::new();
    let access = AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment)).named("slow");
    let operation = permit(&Caller::command_line("ann"), access).operation().unwrap().clone();
    block_on(world.fake.store.begin(&operation)).unwrap();
    let begun = block_on(world.fake.store.head()).unwrap().1.sequence;
    for n in 0..40 {
        world.operate(n);
    }
    block_on(world.app.audit.keep_checkpoints(Checkpoint::AGE)).unwrap();
    let late = world.now() + Duration::from_secs(1);
    world.prune(late, Retained::Archived(&Shelf::default())).unwrap();
    assert!(world.verdict().removed < begun.unsigned_abs());
    block_on(world.fake.store.finish(operation.id, &Outcome::success(world.now()))).unwrap();
    block_on(world.app.audit.keep_checkpoints(Checkpoint::AGE)).unwrap();
    world.prune(late, Retained::Archived(&Shelf::default())).unwrap();
    assert!(world.verdict().removed > begun.unsigned_abs());
    assert!(
        !world.exported(ExportFormat::K8s).contains("\"slow\""),
        "its intent went, its outcome may be there"
    );

    let ops = Caller { role: Some(Role::OpsAdmin), ..Caller::system() };
    let refused = block_on(world.app.audit.prune(&ops, world.now(), Retained::Archived(&Shelf::default())));
    assert_eq!(refused.unwrap_err().cause, Cause::RoleTooLow);
}

/// An archive of the same numbers, and of another history: after a restore, or of another trail.
#[test]
fn only_an_export_of_this_history_holds_a_part() {
    let kept = |world: &World| {
        let shelf = Shelf::default();
        world.prune(world.now() - Duration::from_secs(500), Retained::Archived(&shelf)).unwrap();
        shelf.kept.into_inner().unwrap().remove(0)
    };
    let (first, last, text) = kept(&World::new());
    // operations have ids of their own
    let (other_first, other_last, other) = kept(&World::new());
    assert_eq!((first, last), (other_first, other_last));
    let of = |text: &str| verified(text);
    let head = of(&text).head;
    let checkpoint = Checkpoint::sign(&FakeSigner::default(), &of(&text).trail, head, Timestamp::UNIX_EPOCH);
    let part = Part { first, checkpoint, keys: vec![FakeSigner::default().public_key()] };
    assert!(part.is_held_by(&of(&text)));
    assert!(of(&other).valid && !part.is_held_by(&of(&other)));
    let of_another = Checkpoint { trail: "another".to_owned(), ..part.checkpoint.clone() };
    assert!(!Part { checkpoint: of_another, ..part.clone() }.is_held_by(&of(&text)));
    assert!(!Part { first: first + 1, ..part }.is_held_by(&of(&text)));
}

#[test]
fn what_is_not_whole_is_neither_archived_nor_removed() {
    for with_checkpoints in [false, true] {
        let world = World::new();
        world.fake.store.rewrite(|text| text.replace("\"web-3\"", "\"web-4\""), with_checkpoints);
        let shelf = Shelf::default();
        let late = world.now() + Duration::from_secs(1);
        for kept in [Retained::Archived(&shelf), Retained::Delivered(i64::MAX)] {
            let done = world.prune(late, kept);
            assert!(done.as_ref().is_ok_and(|removed| *removed == 0) || done.is_err(), "{done:?}");
        }
        assert!(shelf.kept.lock().unwrap().is_empty());
        assert_eq!(block_on(world.fake.store.beginning()).unwrap(), None);
    }
}

/// A clock that is set a year forward makes nothing old.
#[test]
fn what_is_removed_by_age_is_as_old_as_the_time_that_went_by() {
    let age = Duration::from_secs(500);
    let old = |world: &World| {
        block_on(world.app.audit.prune_older(&Caller::system(), age, Retained::Delivered(i64::MAX)))
    };
    let world = World::new();
    let removed = old(&world).unwrap();
    assert!(removed > 60, "{removed}: what is old goes");

    let world = World::new();
    world.fake.runtime.clock.jump(jiff::SignedDuration::from_hours(365 * 24));
    let as_before = old(&world).unwrap();
    assert_eq!(as_before, removed, "a year that did not go by makes nothing older");
    for n in 0..3 {
        world.operate(n);
    }
    assert_eq!(old(&world).unwrap(), 0, "nor do entries that are told of it");

    // a process that begins with a wrong clock does not know what went by, but sees that nothing is young
    let world = World::new();
    world.fake.runtime.clock.jump(jiff::SignedDuration::from_hours(365 * 24));
    let begun = App::new(world.fake.ports(), Settings::default());
    let refused =
        block_on(begun.audit.prune_older(&Caller::system(), age, Retained::Delivered(i64::MAX))).unwrap_err();
    assert!(refused.to_string().contains("the clock may be wrong"), "{refused}");
    assert_eq!(world.verdict().removed, 0);
    // a person may say so
    assert!(world.prune(world.now(), Retained::Delivered(i64::MAX)).unwrap() > 0);
}

#[test]
fn whoever_is_told_for_the_first_time_is_told_from_the_beginning() {
    let world = World::new();
    let all = world.verdict().entries;
    let removed =
        world.prune(world.now() - Duration::from_secs(500), Retained::Archived(&Shelf::default())).unwrap();
    let (mut told, mut lines) = (Cursor::default(), String::new());
    while let Some(batch) = block_on(Batch::after(&*world.fake.store, told)).unwrap() {
        assert!(batch.told.sequence > told.sequence || batch.told.checkpoint > told.checkpoint);
        told = batch.told;
        lines.push_str(&batch.lines);
    }
    let entries: Vec<_> = lines.lines().filter(|line| line.starts_with("{\"sequence\":")).collect();
    assert_eq!(entries.len() as u64, all - removed + 1);
    assert!(entries[0].starts_with(&format!("{{\"sequence\":{},", removed + 1)), "{}", entries[0]);
    // the same lines as in an export, whose header announces them
    let export = world.exported(ExportFormat::Jsonl);
    assert!(export.lines().skip(1).filter(|line| !line.contains("checkpoint")).eq(entries));
}
