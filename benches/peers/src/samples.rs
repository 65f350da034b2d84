//! All that was measured. Every engine does its part of a round in a process of its own, which says
//! what it saw in one line of JSON: so none inherits another's heap, threads or caches.

use crate::engines::Failure;
use crate::work::Done;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// One figure of one engine in one round.
pub struct Sample {
    pub round: u32,
    pub engine: String,
    pub workload: String,
    pub value: f64,
}

/// What was measured, in the order it was.
#[derive(Default)]
pub struct Samples {
    pub all: Vec<Sample>,
    /// Of durable puts, all rounds together, in nanoseconds; by engine and threads.
    pub latencies: Vec<(String, u64, Histogram<u64>)>,
}

/// What a process did, as it tells its parent.
pub fn tell(done: &Done) -> Value {
    let counts = |of: &Histogram<u64>| -> Vec<Value> {
        of.iter_recorded().map(|v| json!([v.value_iterated_to(), v.count_at_value()])).collect()
    };
    let latencies: Vec<_> =
        done.latencies.iter().map(|(threads, of)| json!([threads, counts(of)])).collect();
    json!({"figures": done.figures, "latencies": latencies})
}

fn list(value: &Value) -> Result<&Vec<Value>, Failure> {
    value.as_array().ok_or_else(|| format!("no list: {value}").into())
}

fn number(value: &Value) -> Result<u64, Failure> {
    value.as_u64().ok_or_else(|| format!("no number: {value}").into())
}

impl Samples {
    /// Takes in what a process told.
    pub fn hear(&mut self, round: u32, engine: &str, told: &Value) -> Result<(), Failure> {
        for figure in list(&told["figures"])? {
            let (Some(workload), Some(value)) = (figure[0].as_str(), figure[1].as_f64()) else {
                return Err(format!("no figure: {figure}").into());
            };
            let (engine, workload) = (engine.into(), workload.into());
            self.all.push(Sample { round, engine, workload, value });
        }
        for latencies in list(&told["latencies"])? {
            let times = self.latencies_of(engine, number(&latencies[0])?)?;
            for of in list(&latencies[1])? {
                times.record_n(number(&of[0])?, number(&of[1])?)?;
            }
        }
        Ok(())
    }

    fn latencies_of(&mut self, engine: &str, threads: u64) -> Result<&mut Histogram<u64>, Failure> {
        let known = self.latencies.iter().position(|of| of.0 == engine && of.1 == threads);
        let at = known.unwrap_or(self.latencies.len());
        if at == self.latencies.len() {
            self.latencies.push((engine.into(), threads, Histogram::new(3)?));
        }
        Ok(&mut self.latencies[at].2)
    }
}
