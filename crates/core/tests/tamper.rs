//! Whoever has the database can change it. What they did is found.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;

use async_trait::async_trait;
use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    access::{Access, Caller, Resource, Verb},
    app::{App, Settings},
    audit::{
        AuditTrail as _, ChainHash, Checkpoint, CheckpointSigner as _, Entry, ExportQuery, Fault, Head,
        OperationId, OperationRow, Outcome, Signatures, Status, StoredCheckpoint, StoredEntry, StoredRow,
        TrailReader, Verdict, verify, verify_export,
    },
    clock::Clock as _,
    inventory::Cell,
    kind::Kind,
    testing::{
        fake::{Fake, FakeSigner, MemoryWitness},
        permit,
    },
};
use proptest::{prelude::*, sample::Index, test_runner::Config};

/// A checkpoint every so many entries.
const EVERY: i64 = 7;
const TRAIL: &str = "trail";

/// A database, as somebody who owns it has it before them, and the checkpoints that left the house.
#[derive(Clone, Debug, PartialEq)]
struct Copy {
    trail: String,
    head: Head,
    entries: Vec<StoredEntry>,
    rows: Vec<StoredRow>,
    checkpoints: Vec<StoredCheckpoint>,
    witness: Vec<String>,
}

impl Copy {
    /// Intents that overlap, outcomes of each sort, operations in one entry; one is still under way.
    fn made() -> Self {
        let mut copy = Self {
            trail: TRAIL.to_owned(),
            head: Head::NONE,
            entries: Vec::new(),
            rows: Vec::new(),
            checkpoints: Vec::new(),
            witness: Vec::new(),
        };
        let mut under_way: Vec<(usize, OperationRow)> = Vec::new();
        for n in 0..24 {
            let access = Access::to(Verb::Scale, Resource::Kind(Kind::Deployment)).named(format!("Web-{n}"));
            let operation =
                permit(&Caller::command_line("ann"), access.with("replicas", n)).operation().unwrap().clone();
            let row = OperationRow::begun(n + 1, &operation);
            if n % 3 == 0 {
                let outcome = Outcome::success(operation.created_at);
                copy.rows.push(row.ended(&outcome).stored());
                copy.append(&Entry::Complete { operation, outcome });
                continue;
            }
            copy.append(&Entry::Intent { operation });
            copy.rows.push(row.stored());
            under_way.push((copy.rows.len() - 1, row));
            if under_way.len() > 2 {
                let (place, row) = under_way.remove(0);
                let status = Status::ALL[1 + usize::try_from(n).unwrap() % 3];
                let outcome = Outcome {
                    status,
                    error_code: (status != Status::Success).then(|| "TIMEOUT_ERROR".to_owned()),
                    details: (status == Status::Failed).then(|| "refused".to_owned()),
                    ..Outcome::success(row.created_at)
                };
                copy.append(&Entry::Outcome { operation_id: row.operation_id, outcome: outcome.clone() });
                copy.rows[place] = row.ended(&outcome).stored();
            }
        }
        copy.sign();
        copy
    }

    fn append(&mut self, entry: &Entry) {
        let (stored, head) = StoredEntry::after(self.head, entry).unwrap();
        self.entries.push(stored);
        self.head = head;
        if head.sequence % EVERY == 0 {
            self.sign();
        }
    }

    fn sign(&mut self) {
        let line = checkpoint(self.head, 1_700_000_000).line().unwrap();
        self.checkpoints.push(StoredCheckpoint { sequence: self.head.sequence, line: line.clone() });
        self.witness.push(line);
    }

    /// Computes all hashes anew, as anybody can who knows SHA-256.
    fn rehash(&mut self) {
        let mut hash = ChainHash::GENESIS;
        for (entry, sequence) in self.entries.iter_mut().zip(1..) {
            entry.sequence = sequence;
            hash = hash.next(sequence, &entry.text);
            entry.hash = hash.0.to_vec();
        }
        self.head = Head { sequence: self.entries.len().try_into().unwrap(), hash };
    }

    fn verdict(&self) -> Verdict {
        let signer = FakeSigner::default();
        let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: EVERY };
        block_on(verify(self, &MemoryWitness::of(self.witness.clone()), signatures)).unwrap()
    }

    fn fault(&self) -> Option<(i64, Fault)> {
        self.verdict().first_bad.map(|bad| (bad.sequence, bad.fault))
    }
}

fn checkpoint(head: Head, second: i64) -> Checkpoint {
    Checkpoint::sign(&FakeSigner::default(), TRAIL, head, Timestamp::from_second(second).unwrap())
}

#[async_trait]
impl TrailReader for Copy {
    async fn head(&self) -> Result<(String, Head)> {
        Ok((self.trail.clone(), self.head))
    }

    async fn entries(&self, after: i64, limit: u32) -> Result<Vec<StoredEntry>> {
        let mut all: Vec<_> = self.entries.iter().filter(|entry| entry.sequence > after).cloned().collect();
        all.sort_by_key(|entry| entry.sequence);
        all.truncate(limit as usize);
        Ok(all)
    }

    async fn intent(&self, operation: OperationId) -> Result<Option<StoredEntry>> {
        Ok(self.entries.iter().find(|entry| entry.operation_id == operation.to_string()).cloned())
    }

    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<StoredRow>> {
        let mut all: Vec<_> = self.rows.iter().filter(|row| row.id > after).cloned().collect();
        all.sort_by_key(|row| row.id);
        all.truncate(limit as usize);
        Ok(all)
    }

    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<StoredCheckpoint>> {
        let mut all: Vec<_> = self.checkpoints.iter().filter(|one| one.sequence > after).cloned().collect();
        all.sort_by_key(|one| one.sequence);
        all.truncate(limit as usize);
        Ok(all)
    }

    async fn between(
        &self,
        _: Option<Timestamp>,
        _: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>)> {
        Ok((None, None))
    }
}

/// What somebody does to the database.
#[derive(Clone, Debug)]
enum Edit {
    /// A byte of a column of an entry.
    EntryByte(Index, u8, Index, u8),
    EntryDeleted(Index),
    EntryDoubled(Index, Index),
    EntriesSwapped(Index, Index),
    /// The end, with the stored head put right, with or without the checkpoints that told of it.
    Cut(Index, bool),
    /// A byte of a text, and all hashes after it computed anew; with or without the checkpoints that told of it.
    Rewritten(Index, Index, u8, bool),
    /// An entry taken out, and the same.
    Removed(Index, bool),
    /// A byte of a column of a row of the lists.
    RowByte(Index, Index, Index, u8),
    RowDeleted(Index),
    RowDoubled(Index, Index),
    RowsSwapped(Index, Index),
    CheckpointByte(Index, Index, u8),
    CheckpointMoved(Index, i64),
    CheckpointDeleted(Index),
    /// A checkpoint of the right place, with a key of one's own.
    CheckpointForged(Index),
    HeadByte(Index, u8),
    HeadMoved(i64),
    Trail(Index, u8),
}

fn edits() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let flip = || 1..=255u8;
    prop_oneof![
        (at(), 0..6u8, at(), flip()).prop_map(|(a, b, c, d)| Edit::EntryByte(a, b, c, d)),
        at().prop_map(Edit::EntryDeleted),
        (at(), at()).prop_map(|(a, b)| Edit::EntryDoubled(a, b)),
        (at(), at()).prop_map(|(a, b)| Edit::EntriesSwapped(a, b)),
        (at(), any::<bool>()).prop_map(|(a, b)| Edit::Cut(a, b)),
        (at(), at(), flip(), any::<bool>()).prop_map(|(a, b, c, d)| Edit::Rewritten(a, b, c, d)),
        (at(), any::<bool>()).prop_map(|(a, b)| Edit::Removed(a, b)),
        (at(), at(), at(), flip()).prop_map(|(a, b, c, d)| Edit::RowByte(a, b, c, d)),
        at().prop_map(Edit::RowDeleted),
        (at(), at()).prop_map(|(a, b)| Edit::RowDoubled(a, b)),
        (at(), at()).prop_map(|(a, b)| Edit::RowsSwapped(a, b)),
        (at(), at(), flip()).prop_map(|(a, b, c)| Edit::CheckpointByte(a, b, c)),
        (at(), -99..=99i64).prop_map(|(a, b)| Edit::CheckpointMoved(a, b)),
        at().prop_map(Edit::CheckpointDeleted),
        at().prop_map(Edit::CheckpointForged),
        (at(), flip()).prop_map(|(a, b)| Edit::HeadByte(a, b)),
        (-5..=5i64).prop_map(Edit::HeadMoved),
        (at(), flip()).prop_map(|(a, b)| Edit::Trail(a, b)),
    ]
}

/// Changes a byte; what is then no UTF-8 is what the store makes of it.
fn change(text: &mut String, at: &Index, flip: u8) {
    if text.is_empty() {
        text.push('x');
        return;
    }
    let mut bytes = text.clone().into_bytes();
    let at = at.index(bytes.len());
    bytes[at] ^= flip;
    *text =
        String::from_utf8(bytes).unwrap_or_else(|error| format!("\0{}", error.into_bytes().escape_ascii()));
}

fn change_number(number: &mut i64, at: &Index, flip: u8) {
    *number ^= i64::from(flip) << (8 * at.index(6));
}

impl Edit {
    fn make(&self, copy: &mut Copy) {
        let entries = copy.entries.len();
        let entry = |at: &Index| at.index(entries);
        match self {
            Self::EntryByte(at, column, byte, flip) => {
                let entry = &mut copy.entries[entry(at)];
                match column {
                    0 => change_number(&mut entry.sequence, byte, *flip),
                    1 => change(&mut entry.operation_id, byte, *flip),
                    2 => change(&mut entry.kind, byte, *flip),
                    3 => change_number(&mut entry.at, byte, *flip),
                    4 => change(&mut entry.text, byte, *flip),
                    _ => entry.hash[byte.index(32)] ^= flip,
                }
            }
            Self::EntryDeleted(at) => drop(copy.entries.remove(entry(at))),
            Self::EntryDoubled(from, to) => {
                let doubled = copy.entries[entry(from)].clone();
                copy.entries.insert(entry(to), doubled);
                // the numbers are a primary key
                for (entry, sequence) in copy.entries.iter_mut().zip(1..) {
                    entry.sequence = sequence;
                }
            }
            Self::EntriesSwapped(a, b) => {
                let (a, b) = (entry(a), entry(b));
                copy.entries.swap(a, b);
                let sequence = copy.entries[a].sequence;
                copy.entries[a].sequence = copy.entries[b].sequence;
                copy.entries[b].sequence = sequence;
            }
            Self::Cut(at, tell) => {
                copy.entries.truncate(entry(at));
                copy.rehash();
                let left: Vec<_> = copy.entries.iter().map(|entry| entry.operation_id.clone()).collect();
                copy.rows.retain(|row| left.iter().any(|id| row.cells[1].1 == Cell::text(id.as_str())));
                copy.forget(entry(at), *tell);
            }
            Self::Rewritten(at, byte, flip, tell) => {
                change(&mut copy.entries[entry(at)].text, byte, *flip);
                copy.rehash();
                copy.forget(entry(at), *tell);
            }
            Self::Removed(at, tell) => {
                copy.entries.remove(entry(at));
                copy.rehash();
                copy.forget(entry(at), *tell);
            }
            Self::RowByte(at, column, byte, flip) => {
                let rows = copy.rows.len();
                let row = &mut copy.rows[at.index(rows)];
                let column = column.index(row.cells.len());
                match &mut row.cells[column].1 {
                    _ if column == 0 => change(&mut row.searched, byte, *flip),
                    Cell::Text(text) => {
                        let mut changed = text.to_string();
                        change(&mut changed, byte, *flip);
                        *text = changed.into();
                    }
                    Cell::Number(number) => *number += f64::from(*flip),
                    cell => *cell = Cell::text("x"),
                }
            }
            Self::RowDeleted(at) => drop(copy.rows.remove(at.index(copy.rows.len()))),
            Self::RowDoubled(from, to) => {
                let doubled = copy.rows[from.index(copy.rows.len())].clone();
                copy.rows.insert(to.index(copy.rows.len() + 1), doubled);
                for (row, id) in copy.rows.iter_mut().zip(1..) {
                    row.id = id;
                    row.cells[0].1 = Cell::from(id);
                }
            }
            Self::RowsSwapped(a, b) => {
                let (a, b) = (a.index(copy.rows.len()), b.index(copy.rows.len()));
                copy.rows.swap(a, b);
                let id = copy.rows[a].id;
                copy.rows[a].id = copy.rows[b].id;
                copy.rows[b].id = id;
                for row in &mut copy.rows {
                    row.cells[0].1 = Cell::from(row.id);
                }
            }
            Self::CheckpointByte(at, byte, flip) => {
                let at = at.index(copy.checkpoints.len());
                change(&mut copy.checkpoints[at].line, byte, *flip);
            }
            Self::CheckpointMoved(at, by) => {
                let at = at.index(copy.checkpoints.len());
                copy.checkpoints[at].sequence += by;
            }
            Self::CheckpointDeleted(at) => drop(copy.checkpoints.remove(at.index(copy.checkpoints.len()))),
            Self::CheckpointForged(at) => {
                let at = at.index(copy.checkpoints.len());
                let stored = &mut copy.checkpoints[at];
                let mut forged = Checkpoint::parse(&stored.line).unwrap();
                forged.hash = ChainHash([9; 32]);
                stored.line = forged.line().unwrap();
            }
            Self::HeadByte(at, flip) => copy.head.hash.0[at.index(32)] ^= flip,
            Self::HeadMoved(by) => copy.head.sequence += by,
            Self::Trail(at, flip) => change(&mut copy.trail, at, *flip),
        }
    }
}

impl Copy {
    /// Takes away what the database would tell of entries from this place on.
    fn forget(&mut self, from: usize, tell: bool) {
        if !tell {
            self.checkpoints.retain(|stored| usize::try_from(stored.sequence).unwrap() <= from);
        }
    }
}

#[test]
fn a_trail_that_nobody_touched_is_whole() {
    let copy = Copy::made();
    let verdict = copy.verdict();
    assert_eq!(verdict.first_bad, None);
    assert!(verdict.valid);
    assert_eq!((verdict.entries, verdict.head), (copy.entries.len() as u64, copy.head));
    assert_eq!(
        (verdict.checkpoints, verdict.witnessed),
        (copy.checkpoints.len() as u64, copy.witness.len() as u64)
    );
}

/// 10,000 of them; the ones that change nothing (a byte put back, a row swapped with itself) are not counted.
#[test]
fn ten_thousand_random_edits_are_all_found() {
    let whole = Copy::made();
    let mut runner = proptest::test_runner::TestRunner::new(Config {
        cases: 10_000,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&edits(), |edit| {
            let mut copy = whole.clone();
            edit.make(&mut copy);
            prop_assume!(copy != whole);
            prop_assert!(!copy.verdict().valid, "not found");
            Ok(())
        })
        .unwrap();
}

/// Names the entry, and says what is wrong with it.
#[test]
fn the_first_bad_entry_is_named() {
    let whole = Copy::made();
    let last = whole.head.sequence;
    let edited = |edit: &dyn Fn(&mut Copy)| {
        let mut copy = whole.clone();
        edit(&mut copy);
        copy.fault()
    };
    let is = |sequence, fault| Some((sequence, fault));
    assert_eq!(edited(&|copy| copy.entries[9].text.push(' ')), is(10, Fault::EntryChanged));
    assert_eq!(edited(&|copy| drop(copy.entries.remove(9))), is(10, Fault::EntryMissing));
    assert_eq!(edited(&|copy| drop(copy.entries.pop())), is(last, Fault::EntryMissing));
    assert_eq!(edited(&|copy| copy.entries[9].kind = "outcome".to_owned()), is(10, Fault::EntryColumn));
    assert_eq!(edited(&|copy| copy.entries[9].at += 1), is(10, Fault::EntryColumn));
    assert_eq!(edited(&|copy| copy.head.sequence -= 1), is(last - 1, Fault::HeadDiffers));
    assert_eq!(edited(&|copy| copy.rows[0].searched.clear()), is(1, Fault::RowChanged));
    assert_eq!(edited(&|copy| drop(copy.rows.remove(0))), is(1, Fault::RowMissing));
    assert_eq!(
        edited(&|copy| {
            let mut more = copy.rows[0].clone();
            more.id = 99;
            copy.rows.push(more);
        }),
        is(last, Fault::RowUnexpected)
    );
    assert_eq!(edited(&|copy| drop(copy.checkpoints.remove(1))), is(14, Fault::CheckpointRemoved));
    assert_eq!(edited(&|copy| copy.checkpoints[1].line.push(' ')), is(14, Fault::CheckpointForged));
    // without what was kept elsewhere, a gap tells
    assert_eq!(
        edited(&|copy| {
            copy.checkpoints.remove(1);
            copy.witness.clear();
        }),
        is(15, Fault::CheckpointMissing)
    );
    // somebody who knows SHA-256
    let rewrite = |copy: &mut Copy| {
        copy.entries[9].text = copy.entries[9].text.replace("cli:ann", "cli:bob");
        copy.rehash();
        copy.rows.clear();
        copy.rows.clone_from(&whole.rows);
    };
    let mut renamed = whole.clone();
    rewrite(&mut renamed);
    assert_ne!(renamed.entries, whole.entries);
    assert!(
        matches!(renamed.fault(), Some((_, Fault::Rewritten | Fault::RowChanged))),
        "{:?}",
        renamed.fault()
    );
    // the tail with all that told of it in the database
    let cut = |copy: &mut Copy| {
        copy.entries.truncate(14);
        copy.rehash();
        let left: Vec<_> = copy.entries.iter().map(|entry| entry.operation_id.clone()).collect();
        copy.rows.retain(|row| left.iter().any(|id| row.cells[1].1 == Cell::text(id.as_str())));
        copy.checkpoints.truncate(2);
    };
    assert_eq!(edited(&cut), is(15, Fault::TailCut));
}

/// Reads another state from the second look at the head on, as when others append meanwhile.
struct Growing {
    before: Copy,
    after: Copy,
    looks: std::sync::atomic::AtomicU32,
}

#[async_trait]
impl TrailReader for Growing {
    async fn head(&self) -> Result<(String, Head)> {
        let looks = self.looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if looks == 0 { self.before.head().await } else { self.after.head().await }
    }

    async fn entries(&self, after: i64, limit: u32) -> Result<Vec<StoredEntry>> {
        self.after.entries(after, limit).await
    }

    async fn intent(&self, operation: OperationId) -> Result<Option<StoredEntry>> {
        self.after.intent(operation).await
    }

    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<StoredRow>> {
        self.after.rows(after, limit).await
    }

    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<StoredCheckpoint>> {
        self.after.checkpoints(after, limit).await
    }

    async fn between(
        &self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>)> {
        self.after.between(from, to).await
    }
}

/// The head was read at any entry, rows and checkpoints when the trail was complete: no false alarm.
#[test]
fn a_trail_that_grows_while_it_is_verified_is_whole() {
    let after = Copy::made();
    let signer = FakeSigner::default();
    let mut hash = ChainHash::GENESIS;
    for (entry, sequence) in after.entries.iter().zip(1..) {
        hash = hash.next(sequence, &entry.text);
        let before = Copy { head: Head { sequence, hash }, ..after.clone() };
        let growing = Growing { before, after: after.clone(), looks: 0.into() };
        let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: EVERY };
        let witness = MemoryWitness::of(after.witness.clone());
        let verdict = block_on(verify(&growing, &witness, signatures)).unwrap();
        assert_eq!(verdict.first_bad, None, "from {sequence}");
        assert_eq!(verdict.head, after.head);
    }
}

/// An export of everything the fakes have recorded.
fn exported(query: ExportQuery) -> String {
    let fake = Fake::default();
    let app = App::new(fake.ports(), Settings::default());
    for n in 0..40 {
        let access = Access::to(Verb::Scale, Resource::Kind(Kind::Deployment)).named(format!("web-{n}"));
        let mut operation = permit(&Caller::command_line("ann"), access).operation().unwrap().clone();
        operation.created_at = fake.lent.clock.now();
        let outcome = Outcome::success(operation.created_at);
        block_on(fake.store.begin(&operation)).unwrap();
        block_on(fake.store.finish(operation.id, &outcome)).unwrap();
        fake.lent.clock.advance(std::time::Duration::from_secs(10));
    }
    let mut export = block_on(app.audit.export(&Caller::system(), query)).unwrap();
    let mut text = String::new();
    while let Some(lines) = block_on(export.next()).unwrap() {
        text.push_str(&lines);
    }
    let own = fake.store.all_operations().pop().unwrap();
    assert_eq!((&*own.operation_type, &*own.resource_type), ("export", "operation"));
    text
}

fn verified(text: &str) -> Verdict {
    let signer = FakeSigner::default();
    let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: Checkpoint::EVERY };
    verify_export(text.lines().map(|line| Ok(line.to_owned())), signatures).unwrap()
}

#[test]
fn an_export_is_verified_alone_and_any_edit_of_it_is_found() {
    let text = exported(ExportQuery::default());
    let verdict = verified(&text);
    assert_eq!((verdict.first_bad, verdict.entries), (None, 80));
    assert!(verdict.checkpoints > 1);
    let lines: Vec<_> = text.lines().collect();
    for n in 0..lines.len() {
        let is_checkpoint = lines[n].starts_with("{\"checkpoint\"");
        let without: Vec<_> =
            lines.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, line)| *line).collect();
        // a checkpoint adds nothing that the first line does not bind, while others are near enough
        assert_eq!(verified(&without.join("\n")).valid, is_checkpoint, "without line {n}");
        assert!(n == 0 || !verified(&lines[..n].join("\n")).valid || n == lines.len() - 1 && is_checkpoint);
        if n + 1 < lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(n, n + 1);
            assert!(!verified(&swapped.join("\n")).valid, "lines {n} and the next swapped");
        }
    }
    let mut runner =
        proptest::test_runner::TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    runner
        .run(&(any::<Index>(), 1..=255u8), |(at, flip)| {
            let mut bytes = text.clone().into_bytes();
            let at = at.index(bytes.len() - 1);
            bytes[at] ^= flip;
            let changed = String::from_utf8_lossy(&bytes).into_owned();
            prop_assert!(!verified(&changed).valid, "byte {}", at);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_part_is_exported_and_verified_too() {
    let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
    let (from, to) = (at("2026-01-01T00:01:00Z"), at("2026-01-01T00:02:00Z"));
    let verdict = verified(&exported(ExportQuery { from, to, ..ExportQuery::default() }));
    assert_eq!((verdict.first_bad, verdict.entries, verdict.head.sequence), (None, 12, 24));
    for (from, to) in [(at("2027-01-01T00:00:00Z"), None), (None, at("2025-01-01T00:00:00Z")), (to, from)] {
        let verdict = verified(&exported(ExportQuery { from, to, ..ExportQuery::default() }));
        assert_eq!((verdict.first_bad, verdict.entries), (None, 0), "{from:?} {to:?}");
    }
}

#[test]
fn events_are_those_of_an_api_server() {
    use pilothouse_core::audit::ExportFormat;
    let format = ExportFormat::K8s;
    let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
    let events = |from| -> Vec<serde_json::Value> {
        let text = exported(ExportQuery { format, from, to: None });
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = events(None);
    assert_eq!(all.len(), 80);
    let (intent, outcome) = (&all[0], &all[1]);
    assert_eq!((&intent["kind"], &intent["apiVersion"]), (&"Event".into(), &"audit.k8s.io/v1".into()));
    assert_eq!(
        (&intent["stage"], &outcome["stage"]),
        (&"RequestReceived".into(), &"ResponseComplete".into())
    );
    assert_eq!(intent["auditID"], outcome["auditID"]);
    assert_eq!(outcome["objectRef"]["resource"], "deployments");
    assert_eq!(
        (&outcome["objectRef"]["apiGroup"], &outcome["objectRef"]["name"]),
        (&"apps".into(), &"web-0".into())
    );
    assert_eq!((&outcome["verb"], &outcome["user"]["username"]), (&"scale".into(), &"cli:ann".into()));
    assert_eq!(outcome["responseStatus"]["status"], "Success");
    assert_eq!(outcome["stageTimestamp"], "2026-01-01T00:00:00.000000Z");
    assert_eq!(events(at("2026-01-01T00:06:30Z")).len(), 2);
}

#[test]
fn viewers_neither_verify_nor_export_and_one_verifies_at_a_time() {
    use pilothouse_core::{Cause, access::Role};
    let app = App::new(Fake::default().ports(), Settings::default());
    let viewer = Caller { role: Some(Role::Viewer), ..Caller::system() };
    assert_eq!(block_on(app.audit.verify(&viewer)).unwrap_err().cause, Cause::RoleTooLow);
    let refused = block_on(app.audit.export(&viewer, ExportQuery::default())).err().unwrap();
    assert_eq!(refused.cause, Cause::RoleTooLow);
    let verdict = block_on(app.audit.verify(&Caller::system())).unwrap();
    assert!(verdict.valid && verdict.entries == 2, "{verdict:?}");

    let exports: Vec<_> =
        (0..5).map(|_| block_on(app.audit.export(&Caller::system(), ExportQuery::default()))).collect();
    let causes: Vec<_> =
        exports.iter().map(|export| export.as_ref().err().map(|error| error.cause)).collect();
    assert_eq!(causes, [None, None, None, None, Some(Cause::Overloaded)]);
    drop(exports);
    block_on(app.audit.export(&Caller::system(), ExportQuery::default())).ok().unwrap();
}

#[test]
fn checkpoints_are_handed_over_once_and_only_ours() {
    let fake = Fake::default();
    let app = App::new(fake.ports(), Settings::default());
    let record = || {
        let access = Access::to(Verb::Login, Resource::Session);
        let operation = permit(&Caller::system(), access).operation().unwrap().clone();
        block_on(fake.store.record(&operation, &Outcome::success(operation.created_at))).unwrap();
    };
    let kept = || {
        use pilothouse_core::audit::Witness as _;
        fake.witness.lines().unwrap().count()
    };
    for expected in [1, 2, 3] {
        record();
        block_on(app.audit.keep_checkpoints(Checkpoint::AGE)).unwrap();
        block_on(app.audit.keep_checkpoints(Checkpoint::AGE)).unwrap();
        assert_eq!(kept(), expected);
    }
    assert!(!block_on(app.audit.is_cut()).unwrap());
    let empty = App::new(
        pilothouse_core::app::Ports { witness: Arc::clone(&fake.witness) as _, ..Fake::default().ports() },
        Settings::default(),
    );
    assert!(block_on(empty.audit.is_cut()).unwrap());
}
