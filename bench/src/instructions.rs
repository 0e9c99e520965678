//! Instruction count of a page request, measured with valgrind and therefore independent of the load of the machine. It
//! is compared with the reference count in the repository.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    error::{BenchError, Result},
    lists::Fixture,
    plan::Plan,
    pods::Size,
};

/// File of the reference count, and the accepted relative deviation from it.
const REFERENCE_FILE: &str = "bench/instructions.txt";
const TOLERANCE: f64 = 0.05;
/// Requests before the count, and counted requests.
const WARM_UP: usize = 50;
const REQUESTS: usize = 300;
/// Limit of printed groups.
const MAX_GROUPS: usize = 16;

/// Counts, prints and compares with the reference; with `keep`, writes a new reference instead.
pub(crate) async fn count(binary: &Path, keep: bool) -> Result<()> {
    if !Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        return Err(BenchError::because("valgrind is not installed (Debian: apt-get install valgrind)"));
    }
    let folder = tempfile::tempdir()?;
    let wrapper = folder.path().join("server");
    let binary = fs::canonicalize(binary)?;
    let out = folder.path().join("callgrind.out");
    let script = format!(
        "#!/bin/sh\nexec /usr/bin/env PATH=/usr/local/bin:/usr/bin:/bin valgrind --quiet --tool=callgrind --instr-atstart=no \
         --callgrind-out-file={} {} \"$@\"\n",
        out.display(),
        binary.display()
    );
    fs::write(&wrapper, script)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;

    let fixture = Fixture::new(&Plan::smoke(wrapper), 1_000, Size::Small).await?;
    fixture.wait_until_complete()?;
    let request = fixture.server.target.get(&fixture.path(""));
    let mut connection = fixture.server.target.connect()?;
    let mut send = |count: usize| (0..count).try_for_each(|_| connection.expect_success(&request).map(drop));
    send(WARM_UP)?;
    let pid = fixture.server.pid();
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
        .ok_or_else(|| BenchError::because("valgrind wrote no output"))?;
    let annotated = Command::new("callgrind_annotate")
        .args(["--threshold=100", "--inclusive=no", "--auto=no"])
        .arg(dump)
        .output()?;
    let annotated = String::from_utf8_lossy(&annotated.stdout).into_owned();
    let (total, groups) = group_by_crate(&annotated)?;
    let per_request = total as f64 / REQUESTS as f64;
    println!("| instructions of a first page, by crate | per request | share |\n|---|---|---|");
    for (name, count) in groups.iter().take(MAX_GROUPS) {
        let share = 100.0 * *count as f64 / total as f64;
        println!("| {name} | {:.0} | {share:.1} % |", *count as f64 / REQUESTS as f64);
    }
    println!("\n{per_request:.0} instructions per request, over {REQUESTS} requests");
    if keep {
        return Ok(fs::write(REFERENCE_FILE, format!("{per_request:.0}\n"))?);
    }
    let reference: f64 = fs::read_to_string(REFERENCE_FILE)?.trim().parse()?;
    let deviation = per_request / reference - 1.0;
    println!("{:+.1} % relative to the reference {reference:.0} in {REFERENCE_FILE}", deviation * 100.0);
    if deviation.abs() <= TOLERANCE {
        return Ok(());
    }
    Err(BenchError::because(format!(
        "deviates by more than {:.0} %: find the cause, or write a new reference (just instructions --keep) and document why",
        TOLERANCE * 100.0
    )))
}

fn control(arguments: &[&str], pid: u32) -> Result<()> {
    let status = Command::new("callgrind_control")
        .args(arguments)
        .arg(pid.to_string())
        .stdout(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(BenchError::because(format!("callgrind_control {arguments:?} failed")))
    }
}

/// The total count and the count per crate, in descending order.
fn group_by_crate(annotated: &str) -> Result<(u64, Vec<(String, u64)>)> {
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
            *groups.entry(crate_of(rest)).or_default() += count;
        }
    }
    let total = total.ok_or_else(|| BenchError::because("callgrind_annotate gave no total"))?;
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok((total, groups))
}

/// The crate of `file:function [object]`, or the object if the function is not Rust.
fn crate_of(symbol: &str) -> String {
    let (symbol, object) = symbol
        .rsplit_once(" [")
        .map_or((symbol, ""), |(symbol, object)| (symbol, object.trim_end_matches(']')));
    let function = symbol.split_once(':').map_or(symbol, |(_, function)| function);
    let start = function.trim_start_matches(['<', '&', '(', '*', '[']).trim_start_matches("dyn ");
    let name: String = start.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if start[name.len()..].starts_with("::") {
        return name;
    }
    match object.rsplit('/').next() {
        Some(object) if object.contains(".so") => object.to_owned(),
        _ => "C (aws-lc, SQLite), and functions without a path".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_grouped_by_crate() {
        let cases = [
            ("/x/actix-http-3.2/src/h1.rs:actix_http::h1::decoder::decode [/t/pilothouse]", "actix_http"),
            ("???:<serde_json::Value as core::fmt::Debug>::fmt [/t/pilothouse]", "serde_json"),
            (
                "./string/memmove.S:__memcpy_avx_unaligned_erms [/usr/lib/x86_64-linux-gnu/libc.so.6]",
                "libc.so.6",
            ),
        ];
        for (symbol, expected) in cases {
            assert_eq!(crate_of(symbol), expected, "{symbol}");
        }
        let text = "--------\nIr\n--------\n1,000 (100.0%)  PROGRAM TOTALS\n\n600 (60.00%)  a.rs:tokio::x [p]\n400 (40.0%)  b.rs:alloc::y [p]\n";
        let (total, groups) = group_by_crate(text).unwrap();
        assert_eq!((total, groups[0].clone()), (1000, ("tokio".into(), 600)));
    }
}
