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
    pub latencies: Latencies,
    /// Of gets, alone (0) and beside writers (1).
    pub reads: Latencies,
}

/// By engine and number.
pub type Latencies = Vec<(String, u64, Histogram<u64>)>;

/// What a process did, as it tells its parent.
pub fn tell(done: &Done) -> Value {
    let counts = |of: &Histogram<u64>| -> Vec<Value> {
        of.iter_recorded().map(|v| json!([v.value_iterated_to(), v.count_at_value()])).collect()
    };
    let all = |of: &[(u64, Histogram<u64>)]| -> Vec<Value> {
        of.iter().map(|(number, of)| json!([number, counts(of)])).collect()
    };
    let (latencies, reads) = (all(&done.latencies), all(&done.reads));
    json!({"figures": done.figures, "latencies": latencies, "reads": reads})
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
        hear(&mut self.latencies, engine, &told["latencies"])?;
        hear(&mut self.reads, engine, &told["reads"])
    }
}

fn hear(known: &mut Latencies, engine: &str, told: &Value) -> Result<(), Failure> {
    for latencies in list(told)? {
        let number_of = number(&latencies[0])?;
        let at = known.iter().position(|of| of.0 == engine && of.1 == number_of);
        let at = at.unwrap_or(known.len());
        if at == known.len() {
            known.push((engine.into(), number_of, Histogram::new(3)?));
        }
        for of in list(&latencies[1])? {
            known[at].2.record_n(number(&of[0])?, number(&of[1])?)?;
        }
    }
    Ok(())
}
