//! Queries rows that change with `pilothouse-rows` alone: no cluster, no roles, no `pilothouse-core`. The rows are disks
//! of hosts; the arguments are the query parameters of Pilothouse's lists.
//!
//! `cargo run -p example-rows -- state=ok sort=-free_gib per_page=2`
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::env;

use pilothouse_rows::{Cell, Change, Field, Filter, ListQuery, ListRow, QuerySpec, Row, Table, fields_of};
use pilothouse_types::{Error, Result, namespaces::NamespaceScope};
use serde::Serialize;

/// A row, and how its fields sort and filter.
#[derive(Serialize)]
struct Disk {
    host: &'static str,
    name: &'static str,
    free_gib: i64,
    state: &'static str,
}

impl ListRow for Disk {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("host", |row| Cell::text(row.host)),
        Field::new("name", |row| Cell::text(row.name)),
        Field::new("free_gib", |row| Cell::from(row.free_gib)),
        Field::filtered("state", Filter::OneOf(&["ok", "full"]), |row: &Self| Cell::text(row.state))
            .counted(),
    ];

    fn name(&self) -> &str {
        self.name
    }

    fn namespace(&self) -> Option<&str> {
        Some(self.host)
    }
}

/// Replaces the row of a disk; the table returns what changed.
fn put(table: &mut Table, disk: &Disk) -> Result<Vec<Change>> {
    Ok(table.apply(0, (Some(disk.host), disk.name), vec![Row::of(disk)?]))
}

fn print_page(table: &mut Table, query: &ListQuery) -> Result<()> {
    // an index is built at the first use of its sort order, and then kept up to date
    let indexes = table.build_index(query);
    table.add_indexes(indexes);
    let (rows, position) =
        table.page(query).ok_or_else(|| Error::internal("an index of the query is missing"))?;
    for row in &rows {
        println!("{}", row.json());
    }
    println!("page {} of {}, {} rows match", position.page, position.pages, position.total);
    Ok(())
}

fn main() -> Result<()> {
    let parameter = |argument: String| {
        let (name, value) = argument.split_once('=').unwrap_or((argument.as_str(), ""));
        (name.to_owned(), value.to_owned())
    };
    let parameters: Vec<_> = env::args().skip(1).map(parameter).collect();
    let spec = QuerySpec::local(fields_of::<Disk>, "");
    let query = ListQuery::parse_page(&spec, &parameters)?;

    let mut table = Table::new(&fields_of::<Disk>());
    for disk in [
        Disk { host: "db-1", name: "sda", free_gib: 120, state: "ok" },
        Disk { host: "db-1", name: "sdb", free_gib: 300, state: "ok" },
        Disk { host: "web-1", name: "sda", free_gib: 80, state: "ok" },
    ] {
        put(&mut table, &disk)?;
    }
    print_page(&mut table, &query)?;

    let full = Disk { host: "db-1", name: "sdb", free_gib: 0, state: "full" };
    for change in put(&mut table, &full)? {
        if let Change::Changed(old, new) = change {
            println!("changed: {} to {}", old.json(), new.json());
        }
    }
    print_page(&mut table, &query)?;
    println!("full: {}", table.counted_by("state", "full", &NamespaceScope::All));
    Ok(())
}
