//! B5: from the start of the process to its first correct page, beside curl reading the same LIST.

use std::{process::Command, time::Instant};

use super::Stage;
use crate::{
    error::{Failed, Result},
    measure::spread,
    plan::Plan,
    plane,
    pods::Size,
    process,
    report::{Section, short},
};

/// B5, at every size of cluster.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    let mut section = Section::new("B5", "start to first correct page");
    let head =
        ["pods", "curl of LIST, s", "a page of the API server (limit=50), s", "start to first page, s"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    let mut verdicts = Vec::new();
    for count in &plan.counts {
        let mut stage = Stage::new(plan, *count, Size::Small).await?;
        // both sides find the API server warm
        curl(&stage)?;
        let (mut lists, mut pages, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..plan.rounds.min(3) {
            lists.push(curl(&stage)?);
            let began = Instant::now();
            plane::direct(&stage.plane)?.read("/api/v1/pods?limit=50")?;
            pages.push(began.elapsed().as_secs_f64());
            stage.server.shipped.end();
            let began = Instant::now();
            stage.server.start_again().await?;
            stage.sync()?;
            starts.push(began.elapsed().as_secs_f64());
        }
        let [list, page, start] = [&lists, &pages, &starts].map(|values| spread(values));
        let cell = |(median, spread): (f64, f64)| format!("{} ({})", short(median), short(spread));
        table.push(vec![count.to_string(), cell(list), cell(page), cell(start)]);
        verdicts.push((format!("{count} pods, against curl"), start.0 / list.0, 1.25, "×"));
    }
    section.table(&table);
    for (what, measured, target, unit) in verdicts {
        section.verdict(&what, measured, target, unit);
    }
    Ok(section)
}

/// How long curl takes for the whole LIST.
fn curl(stage: &Stage) -> Result<f64> {
    let ca = stage.plane.dir()?.join("ca.crt");
    let began = Instant::now();
    // where the server would be
    process::stay_on(process::MEASURED)?;
    let status = Command::new("curl")
        .args(["--silent", "--fail", "--output", "/dev/null", "--cacert"])
        .arg(ca)
        .args(["--header", &format!("Authorization: Bearer {}", stage.plane.admin_token())])
        .arg(format!("{}/api/v1/pods", stage.plane.server()))
        .status();
    process::stay_on(process::LOAD)?;
    if status?.success() { Ok(began.elapsed().as_secs_f64()) } else { Err(Failed::because("curl failed")) }
}
