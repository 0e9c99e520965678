//! B4: memory of a cached cluster.

use std::{thread::sleep, time::Duration};

use serde_json::Value;

use super::Fixture;
use crate::{
    error::Result,
    plan::Plan,
    pods::Size,
    process::{memory, reset_peak_memory},
    report::{Section, short},
};

/// Time after which memory used only for the first fill should be free.
const SETTLE_TIME: Duration = Duration::from_secs(5);
const MB: f64 = 1e6;

/// B4, at both sizes.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    let count = plan.pods();
    let mut section = Section::new("B4", &format!("memory with {count} pods"));
    let mut table = vec![
        [
            "pods of",
            "LIST, bytes per pod",
            "row, bytes",
            "idle MB",
            "synchronised MB",
            "bytes per pod",
            "peak MB",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut verdicts = Vec::new();
    for size in [Size::Small, Size::Large] {
        let fixture = Fixture::new(plan, count, size).await?;
        let pid = fixture.server.pid();
        fixture.server.data("/api/auth/me")?;
        let idle = memory(pid)?.now;
        reset_peak_memory(pid)?;
        fixture.wait_until_complete()?;
        sleep(plan.settle_time(SETTLE_TIME));
        let synchronised = memory(pid)?;
        let per_pod = (synchronised.now - idle) / count as f64;
        let (row, object) = (row_bytes(&fixture)?, object_bytes(&fixture)?);
        table.push(vec![
            size.name().into(),
            short(object),
            short(row),
            short(idle / MB),
            short(synchronised.now / MB),
            short(per_pod),
            short(synchronised.peak / MB),
        ]);
        verdicts.push((
            format!("pods of {}, bytes per pod above those of its row", size.name()),
            per_pod - row,
            250.0,
            "B",
        ));
        let allowed = (1.5 * synchronised.now + 64.0 * f64::from(1 << 20)) / MB;
        verdicts.push((format!("pods of {}, peak", size.name()), synchronised.peak / MB, allowed, "MB"));
    }
    section.table(&table);
    for (what, measured, target, unit) in verdicts {
        section.verdict(&what, measured, target, unit);
    }
    Ok(section)
}

/// Mean size of a row in responses, in bytes, over some pages.
fn row_bytes(fixture: &Fixture) -> Result<f64> {
    let (mut bytes, mut rows) = (0, 0);
    for page in 1..=10 {
        let data = fixture.server.data(&fixture.path(&format!("&page={page}")))?;
        for row in data["pods"].as_array().into_iter().flatten() {
            bytes += row.to_string().len();
            rows += 1;
        }
    }
    Ok(bytes as f64 / f64::from(rows))
}

/// Mean size of a pod in the API server's LIST, in bytes.
fn object_bytes(fixture: &Fixture) -> Result<f64> {
    let target = crate::plane::direct(&fixture.plane)?;
    let list: Value = serde_json::from_slice(&target.read("/api/v1/pods?limit=500")?)?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let bytes: usize = items.iter().map(|item| item.to_string().len()).sum();
    Ok(bytes as f64 / items.len().max(1) as f64)
}
