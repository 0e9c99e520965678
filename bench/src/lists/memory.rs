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

/// Target: growth of the memory of a pod over the earlier build, in bytes (issue 15).
const MAX_GROWTH_BYTES: f64 = 96.0;

/// Memory of a server with a cached cluster, and sizes, in bytes.
struct Cached {
    idle: f64,
    synchronised: f64,
    peak: f64,
    /// Of one pod.
    per_pod: f64,
    /// Mean size of a row, and of a pod in a LIST.
    row: f64,
    object: f64,
}

impl Cached {
    async fn measure(plan: &Plan, size: Size) -> Result<Self> {
        let fixture = Fixture::new(plan, plan.pods(), size).await?;
        let pid = fixture.server.pid();
        fixture.server.data("/api/auth/me")?;
        let idle = memory(pid)?.now;
        reset_peak_memory(pid)?;
        fixture.wait_until_complete()?;
        sleep(plan.settle_time(SETTLE_TIME));
        let synchronised = memory(pid)?;
        Ok(Self {
            idle,
            synchronised: synchronised.now,
            peak: synchronised.peak,
            per_pod: (synchronised.now - idle) / plan.pods() as f64,
            row: row_bytes(&fixture)?,
            object: object_bytes(&fixture)?,
        })
    }

    /// A line of the table.
    fn cells(&self, name: String) -> Vec<String> {
        vec![
            name,
            short(self.object),
            short(self.row),
            short(self.idle / MB),
            short(self.synchronised / MB),
            short(self.per_pod),
            short(self.peak / MB),
        ]
    }
}

/// B4, at both sizes; of the earlier build too, if there is one.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    let mut section = Section::new("B4", &format!("memory with {} pods", plan.pods()));
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
        let cached = Cached::measure(plan, size).await?;
        let name = size.name();
        table.push(cached.cells(name.to_owned()));
        verdicts.push((
            format!("pods of {name}, bytes per pod above those of its row"),
            cached.per_pod - cached.row,
            250.0,
            "B",
        ));
        let allowed = (1.5 * cached.synchronised + 64.0 * f64::from(1 << 20)) / MB;
        verdicts.push((format!("pods of {name}, peak"), cached.peak / MB, allowed, "MB"));
        if let Some(binary) = &plan.before {
            let plan = Plan { binary: binary.clone(), ..plan.clone() };
            let before = Cached::measure(&plan, size).await?;
            table.push(before.cells(format!("{name}, earlier build")));
            verdicts.push((
                format!("pods of {name}, bytes per pod above the earlier build's"),
                cached.per_pod - before.per_pod,
                MAX_GROWTH_BYTES,
                "B",
            ));
        }
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
