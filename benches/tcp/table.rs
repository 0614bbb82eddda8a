//! What was measured, in the order in which it came, and the ratios between servers.

use std::fmt;

use crate::support::stats::Summary;
use crate::window::Measured;

/// Measurements of several tasks and servers, a column for each round.
#[derive(Default)]
pub struct Table(Vec<Row>);

struct Row {
    task: String,
    server: String,
    unit: &'static str,
    measured: Vec<Measured>,
}

impl Table {
    /// Adds a measurement; `unit` is so many of what was counted, in a second.
    pub fn row(
        &mut self,
        task: &str,
        server: &str,
        unit: &'static str,
        mut measured: Measured,
        scale: f64,
    ) {
        measured.rate /= scale;
        self.add(Table(vec![Row {
            task: task.into(),
            server: server.into(),
            unit,
            measured: vec![measured],
        }]));
    }

    /// Adds the measurements of another round.
    pub fn add(&mut self, other: Table) {
        for row in other.0 {
            let known = self
                .0
                .iter_mut()
                .find(|known| known.task == row.task && known.server == row.server);
            match known {
                Some(known) => known.measured.extend(row.measured),
                None => self.0.push(row),
            }
        }
    }

    /// Ours to each other server of the same task: medians of what came in the same rounds.
    pub fn ratios(&self) -> Vec<String> {
        let ours = |row: &&Row| row.server == "virtroupe";
        let others = self.0.iter().filter(|row| !ours(row));
        let ratio = |other: &Row| {
            let ours = self
                .0
                .iter()
                .find(|row| ours(row) && row.task == other.task)?;
            let rates = |row: &Row| -> Vec<f64> { row.measured.iter().map(|m| m.rate).collect() };
            let pairs = rates(ours).into_iter().zip(rates(other));
            let ratio = Summary::of_ratios(pairs)?;
            let (task, against) = (&other.task, &other.server);
            Some(match against.as_str() {
                "smoltcp" => format!("ratio {task} {:.2}", ratio.median),
                _ => format!("ratio to {against}, {task}: {ratio:.2}"),
            })
        };
        others.filter_map(ratio).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:22} {:24} {:>32} {:>18}",
            "task", "server", "rate, median [min, max]", "client, server busy"
        )?;
        let mut rows: Vec<&Row> = self.0.iter().collect();
        rows.sort_by(|a, b| a.task.cmp(&b.task).then(b.server.cmp(&a.server)));
        for row in rows {
            let of = |part: fn(&Measured) -> f64| Summary::of(row.measured.iter().map(part));
            let (Some(rate), Some(client), Some(server)) = (
                of(|one| one.rate),
                of(|one| one.client_busy),
                of(|one| one.server_busy),
            ) else {
                continue;
            };
            writeln!(
                f,
                "{:22} {:24} {:>32} {:>18}",
                row.task,
                row.server,
                format!("{rate:.1} {}", row.unit),
                format!(
                    "{:.0} %, {:.0} %",
                    client.median * 100.0,
                    server.median * 100.0
                )
            )?;
        }
        Ok(())
    }
}
