//! `access.txt`: every route, everybody, what they get. Read, compared, and on request written anew.

use std::{collections::BTreeSet, time::Duration};

use pilothouse_core::{access::Caller, session::SessionId};

use crate::test_app::{Credentials, TestApp};

/// The columns.
pub(crate) const CALLERS: [&str; 9] =
    ["nobody", "bearer", "cookie", "expired", "revoked", "mixed", "viewer", "ops", "super"];

/// A line of the file: what each caller gets for one input, and what the trail calls it.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) statuses: Vec<u16>,
    /// `operation_type/resource_type` of the rows it makes, `-` when it never makes one.
    pub(crate) recorded: String,
    /// The query of a GET, the JSON body of a POST; `{…}` stand for things that exist.
    pub(crate) input: String,
}

impl Line {
    /// Reads a line; one whose statuses are not known yet has none.
    fn parse(text: &str) -> Self {
        let mut words = text.split_whitespace().peekable();
        let mut word = || words.next().unwrap().to_owned();
        let (method, path) = (word(), word());
        let mut statuses = Vec::new();
        while let Some(status) = words.peek().and_then(|word| word.parse().ok()) {
            statuses.push(status);
            words.next();
        }
        let is_record = |word: &str| word == "-" || (word.contains('/') && !word.contains(['=', '"']));
        let recorded = words.next_if(|word| is_record(word)).unwrap_or_default().to_owned();
        Self { method, path, statuses, recorded, input: words.collect::<Vec<_>>().join(" ") }
    }

    /// The line as it stands in the file.
    pub(crate) fn write(&self) -> String {
        let Self { method, path, statuses, recorded, input } = self;
        let statuses: Vec<_> = statuses.iter().map(u16::to_string).collect();
        format!("{method:<4} {path:<36} {} {recorded:<22} {input}", statuses.join(" ")).trim_end().to_owned()
    }

    /// What a caller of this column gets.
    pub(crate) fn status(&self, caller: &str) -> u16 {
        self.statuses[CALLERS.iter().position(|name| *name == caller).unwrap()]
    }

    /// The input with real ids in it.
    pub(crate) async fn input(&self, house: &TestApp, own: &str, refresh: &str) -> String {
        let mut input = self.input.replace("{cluster}", &house.cluster.to_string());
        for (place, user) in [("{user}", "target"), ("{own user}", own)] {
            input = input.replace(place, &house.user(user).await.to_string());
        }
        for (place, user) in [("{session}", "target"), ("{own}", own)] {
            if input.contains(place) {
                // of one that has ended no id is known; its owner is not let in anyway
                let session = house.session(user).await.unwrap_or(i64::MAX);
                input = input.replace(place, &session.to_string());
            }
        }
        input.replace("{refresh}", refresh).replace("{absent}", "999999")
    }
}

const FILE: &str = include_str!("access.txt");

fn is_line(text: &&str) -> bool {
    !text.starts_with('#') && !text.is_empty()
}

/// Every line.
pub(crate) fn lines() -> Vec<Line> {
    FILE.lines().filter(is_line).map(Line::parse).collect()
}

/// The lines of each route in which a super admin succeeds: inputs that only a fault of theirs makes bad.
pub(crate) fn good_inputs(method: &str, path: &str) -> Vec<Line> {
    let good = |line: &Line| line.method == method && line.path == path && line.status("super") == 200;
    let good: Vec<_> = lines().into_iter().filter(good).collect();
    assert!(!good.is_empty(), "{method} {path} has no line in which a super admin succeeds");
    good
}

/// Compares the file with what is so. `UPDATE=1` writes it anew instead: review the difference, line by line.
#[allow(clippy::disallowed_methods, reason = "whoever runs the test asks for the file")]
pub(crate) fn compare(real: &[Line]) {
    let mut rest = real.iter();
    let current: Vec<_> = FILE
        .lines()
        .map(|text| if is_line(&text) { rest.next().unwrap().write() } else { text.to_owned() })
        .collect();
    if std::env::var_os("UPDATE").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/access.txt");
        std::fs::write(file, current.join("\n") + "\n").unwrap();
        return;
    }
    let written: BTreeSet<_> = FILE.lines().map(str::trim_end).collect();
    let differing: Vec<_> = current.iter().filter(|line| !written.contains(line.as_str())).collect();
    assert!(differing.is_empty(), "access.txt says otherwise; UPDATE=1 writes it anew:\n{differing:#?}");
}

/// The credentials of a caller, and a refresh token of the session whose cookie is, or would be, among them.
pub(crate) async fn credentials(house: &TestApp, caller: &str) -> (Credentials, String) {
    let user = if ["viewer", "ops"].contains(&caller) { caller } else { "super" };
    let who = house.login(user).await;
    let Credentials { bearer, cookie } = who.credentials;
    let credentials = match caller {
        "nobody" => Credentials::default(),
        "bearer" => Credentials { bearer, cookie: None },
        "cookie" => Credentials { bearer: None, cookie },
        "expired" => {
            house.advance(Duration::from_secs(11 * 60));
            Credentials { bearer, cookie }
        }
        "revoked" => {
            let session = SessionId(house.session(user).await.unwrap());
            house.app.sessions.revoke(&Caller::system(), session).await.unwrap();
            Credentials { bearer, cookie }
        }
        "mixed" => Credentials { bearer: house.login(user).await.credentials.bearer, cookie },
        _ => Credentials { bearer, cookie },
    };
    (credentials, who.refresh)
}

/// Whose session and account are the caller's own.
pub(crate) fn own(caller: &str) -> &str {
    if ["viewer", "ops"].contains(&caller) { caller } else { "super" }
}
