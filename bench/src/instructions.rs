//! How many instructions the server spends on a page: counted by valgrind, so the same on a busy machine as on a quiet
//! one, and held against the number that is kept in the tree.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    error::{Failed, Result},
    lists::Stage,
    plan::Plan,
    pods::Size,
};

/// The number that is kept, and how far from it is too far.
const KEPT: &str = "bench/instructions.txt";
const TOLERANCE: f64 = 0.05;
/// Requests before it is counted, and while it is.
const WARM_UP: usize = 50;
const REQUESTS: usize = 300;
/// Groups that are shown.
const SHOWN: usize = 16;

/// Counts, shows, compares; or keeps.
pub(crate) async fn count(binary: &Path, keep: bool) -> Result<()> {
    if !Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|said| said.success())
    {
        return Err(Failed::because("valgrind is not installed (Debian: apt-get install valgrind)"));
    }
    let folder = tempfile::tempdir()?;
    let wrapped = folder.path().join("server");
    let binary = fs::canonicalize(binary)?;
    let out = folder.path().join("callgrind.out");
    let script = format!(
        "#!/bin/sh\nexec /usr/bin/env PATH=/usr/local/bin:/usr/bin:/bin valgrind --quiet --tool=callgrind --instr-atstart=no \
         --callgrind-out-file={} {} \"$@\"\n",
        out.display(),
        binary.display()
    );
    fs::write(&wrapped, script)?;
    fs::set_permissions(&wrapped, fs::Permissions::from_mode(0o755))?;

    let stage = Stage::new(&Plan::smoke(wrapped), 1_000, Size::Small).await?;
    stage.sync()?;
    let request = stage.server.target.get(&stage.path(""));
    let mut connection = stage.server.target.connect()?;
    let mut send = |count: usize| (0..count).try_for_each(|_| connection.good(&request).map(drop));
    send(WARM_UP)?;
    let pid = stage.server.pid();
    control(&["--instr=on"], pid)?;
    send(REQUESTS)?;
    control(&["--instr=off"], pid)?;
    control(&["--dump"], pid)?;

    let dump = fs::read_dir(folder.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("callgrind.out."))
        })
        .max()
        .ok_or_else(|| Failed::because("valgrind has written nothing"))?;
    let annotated = Command::new("callgrind_annotate")
        .args(["--threshold=100", "--inclusive=no", "--auto=no"])
        .arg(dump)
        .output()?;
    let annotated = String::from_utf8_lossy(&annotated.stdout).into_owned();
    let (total, groups) = grouped(&annotated)?;
    let each = total as f64 / REQUESTS as f64;
    println!("| instructions of a first page, by crate | a request | share |\n|---|---|---|");
    for (name, count) in groups.iter().take(SHOWN) {
        let share = 100.0 * *count as f64 / total as f64;
        println!("| {name} | {:.0} | {share:.1} % |", *count as f64 / REQUESTS as f64);
    }
    println!("\n{each:.0} instructions a request, over {REQUESTS} requests");
    if keep {
        return Ok(fs::write(KEPT, format!("{each:.0}\n"))?);
    }
    let kept: f64 = fs::read_to_string(KEPT)?.trim().parse()?;
    let off = each / kept - 1.0;
    println!("{:+.1} % against the {kept:.0} that are kept in {KEPT}", off * 100.0);
    if off.abs() <= TOLERANCE {
        return Ok(());
    }
    Err(Failed::because(format!(
        "more than {:.0} % away: find out why, or keep the new number (just instructions --keep) and say why",
        TOLERANCE * 100.0
    )))
}

fn control(what: &[&str], pid: u32) -> Result<()> {
    let done =
        Command::new("callgrind_control").args(what).arg(pid.to_string()).stdout(Stdio::null()).status()?;
    if done.success() { Ok(()) } else { Err(Failed::because(format!("callgrind_control {what:?} failed"))) }
}

/// All instructions, and those of each crate, most first.
fn grouped(annotated: &str) -> Result<(u64, Vec<(String, u64)>)> {
    let (mut total, mut groups) = (None, BTreeMap::<String, u64>::new());
    for line in annotated.lines() {
        let Some((count, rest)) = line.trim_start().split_once(' ') else { continue };
        let Ok(count) = count.replace(',', "").parse::<u64>() else { continue };
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix('(') {
            Some(share) => share.split_once(')').map_or("", |(_, rest)| rest.trim_start()),
            None => rest,
        };
        if rest.starts_with("PROGRAM TOTALS") {
            total = Some(count);
        } else if total.is_some() {
            *groups.entry(group(rest)).or_default() += count;
        }
    }
    let total = total.ok_or_else(|| Failed::because("callgrind_annotate gave no total"))?;
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok((total, groups))
}

/// The crate of `file:function [object]`, or the object of what is no Rust.
fn group(place: &str) -> String {
    let (place, object) =
        place.rsplit_once(" [").map_or((place, ""), |(place, object)| (place, object.trim_end_matches(']')));
    let function = place.split_once(':').map_or(place, |(_, function)| function);
    let start = function.trim_start_matches(['<', '&', '(', '*', '[']).trim_start_matches("dyn ");
    let name: String = start.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if start[name.len()..].starts_with("::") {
        return name;
    }
    match object.rsplit('/').next() {
        Some(object) if object.contains(".so") => object.to_owned(),
        _ => "C (aws-lc, SQLite), and what has no path".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_belongs_to_its_crate() {
        let cases = [
            ("/x/actix-http-3.2/src/h1.rs:actix_http::h1::decoder::decode [/t/pilothouse]", "actix_http"),
            ("???:<serde_json::Value as core::fmt::Debug>::fmt [/t/pilothouse]", "serde_json"),
            (
                "./string/memmove.S:__memcpy_avx_unaligned_erms [/usr/lib/x86_64-linux-gnu/libc.so.6]",
                "libc.so.6",
            ),
        ];
        for (place, wanted) in cases {
            assert_eq!(group(place), wanted, "{place}");
        }
        let text = "--------\nIr\n--------\n1,000 (100.0%)  PROGRAM TOTALS\n\n600 (60.00%)  a.rs:tokio::x [p]\n400 (40.0%)  b.rs:alloc::y [p]\n";
        let (total, groups) = grouped(text).unwrap();
        assert_eq!((total, groups[0].clone()), (1000, ("tokio".into(), 600)));
    }
}
