//! B5: time from the start of the process to its first correct page, compared with curl reading the same LIST.

use std::{process::Command, time::Instant};

use super::Fixture;
use crate::{
    error::{BenchError, Result},
    measure::spread,
    plan::Plan,
    plane,
    pods::Size,
    process,
    report::{Section, short},
};

/// B5, at every cluster size.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    let mut section = Section::new("B5", "start to first correct page");
    let head =
        ["pods", "curl of LIST, s", "a page of the API server (limit=50), s", "start to first page, s"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    let mut verdicts = Vec::new();
    for count in &plan.counts {
        let mut fixture = Fixture::new(plan, *count, Size::Small).await?;
        // warms up the API server for both measurements
        curl(&fixture)?;
        let (mut lists, mut pages, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..plan.rounds.min(3) {
            lists.push(curl(&fixture)?);
            let started = Instant::now();
            plane::direct(&fixture.plane)?.read("/api/v1/pods?limit=50")?;
            pages.push(started.elapsed().as_secs_f64());
            fixture.server.pilothouse.end();
            let started = Instant::now();
            fixture.server.start_again().await?;
            fixture.wait_until_complete()?;
            starts.push(started.elapsed().as_secs_f64());
        }
        let [list, page, start] = [&lists, &pages, &starts].map(|values| spread(values));
        let cell = |(median, spread): (f64, f64)| format!("{} ({})", short(median), short(spread));
        table.push(vec![count.to_string(), cell(list), cell(page), cell(start)]);
        verdicts.push((format!("{count} pods, relative to curl"), start.0 / list.0, 1.25, "×"));
    }
    section.table(&table);
    for (what, measured, target, unit) in verdicts {
        section.verdict(&what, measured, target, unit);
    }
    Ok(section)
}

/// Duration of the whole LIST with curl, in seconds.
fn curl(fixture: &Fixture) -> Result<f64> {
    let ca = fixture.plane.dir()?.join("ca.crt");
    let started = Instant::now();
    // on the server's core
    process::pin_current_thread(process::MEASURED_CORE)?;
    let status = Command::new("curl")
        .args(["--silent", "--fail", "--output", "/dev/null", "--cacert"])
        .arg(ca)
        .args(["--header", &format!("Authorization: Bearer {}", fixture.plane.admin_token())])
        .arg(format!("{}/api/v1/pods", fixture.plane.server()))
        .status();
    process::pin_current_thread(process::LOAD_CORE)?;
    if status?.success() {
        Ok(started.elapsed().as_secs_f64())
    } else {
        Err(BenchError::because("curl failed"))
    }
}
