//! stratalog beside other engines: `cargo run --release` in this directory. See README.md.

mod data;
mod engines;
mod parts;
mod plot;
mod report;
mod samples;
mod targets;
mod work;

use clap::Parser;
use engines::{
    Bf, Dash, Driver, Engine, Failure, Feox, Fjall, Lmdb, Papaya, Redb, Scc, Sled, Sqlite,
    Stratalog,
};
use samples::Samples;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use work::{Done, Setup};

/// Measures stratalog beside other engines, in turns, and prints medians as Markdown.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Records of a store; each carries 3,344 bytes.
    #[arg(
        long,
        default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1000..1 << 31),
    )]
    records: u64,
    /// Rounds; in each, every engine does everything once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Milliseconds of each kind of get.
    #[arg(long, default_value_t = 400)]
    gets: u64,
    /// Milliseconds of durable puts, for each number of threads.
    #[arg(long, default_value_t = 2000)]
    durable: u64,
    /// Where stores are made, and removed again. Not on a tmpfs: its flushes do nothing.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Engines, by the beginnings of their names; stratalog is always one of them.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// What to measure: all but `sustained` unless told.
    #[arg(long, value_delimiter = ',', value_parser = PARTS)]
    parts: Vec<String>,
    /// Records that are put at a stretch; 4 GiB of them unless given.
    #[arg(long)]
    stretch: Option<u64>,
    /// File for every round's figures.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Directory for plots.
    #[arg(long)]
    plots: Option<PathBuf>,
    /// A look in less than two minutes: fewer records, 3 rounds, shorter ones.
    #[arg(long)]
    quick: bool,
    /// For the processes that this one starts.
    #[arg(long, hide = true)]
    engine: Option<String>,
    #[arg(long, hide = true)]
    step: Option<String>,
}

type Step = fn(&Setup, &mut Done) -> Result<(), Failure>;

/// An engine by what it does, each step in a process of its own.
struct Peer {
    name: &'static str,
    keeps: &'static str,
    /// The part it belongs to, its name, and what it is.
    steps: Vec<(&'static str, &'static str, Step)>,
}

const BUFFERED: &str = "buffered";
const DURABLE: &str = "durable";
const SUSTAINED: &str = "sustained";
const REOPEN: &str = "reopen";
const PARTS: [&str; 7] = [BUFFERED, DURABLE, "prepared", SUSTAINED, "threads", "readers", REOPEN];
/// Dies of the signal that it sends itself.
const FILL_AND_DIE: &str = "fill and die";

fn peer<E: Engine>() -> Peer {
    let mut steps = vec![
        (BUFFERED, BUFFERED, work::buffered::<E> as Step),
        ("prepared", "prepared", parts::prepared::<E>),
        (SUSTAINED, SUSTAINED, parts::sustained::<E>),
        ("threads", "threads", parts::threads::<E>),
        ("readers", "readers", parts::mixed::<E>),
        (REOPEN, "fill", parts::fill::<E>),
    ];
    if E::ON_DISK {
        steps.extend([
            (DURABLE, DURABLE, work::durable::<E> as Step),
            (REOPEN, "closed", parts::closed::<E>),
            (REOPEN, FILL_AND_DIE, parts::fill_and_die::<E>),
            (REOPEN, "killed", parts::killed::<E>),
        ]);
    }
    Peer { name: E::NAME, keeps: E::KEEPS, steps }
}

fn peers(only: &[String]) -> Vec<Peer> {
    let mut peers = vec![peer::<Stratalog>(), peer::<Lmdb>()];
    #[cfg(feature = "rocksdb")]
    {
        peers.push(peer::<engines::Rocks<engines::Plain>>());
        peers.push(peer::<engines::Rocks<engines::Blob>>());
    }
    peers.extend([peer::<Fjall>(), peer::<Sled>(), peer::<Redb>(), peer::<Sqlite>()]);
    peers.extend([peer::<Bf>(), peer::<Feox>()]);
    peers.extend([peer::<Dash>(), peer::<Papaya>(), peer::<Scc>()]);
    peers.push(Peer {
        name: Driver::NAME,
        keeps: "",
        steps: vec![(BUFFERED, BUFFERED, work::driver)],
    });
    peers.push(Peer { name: work::BARE, keeps: "", steps: vec![(DURABLE, DURABLE, work::bare)] });
    let asked = |name: &str| {
        let name = name.to_lowercase();
        only.is_empty() || only.iter().any(|beginning| name.starts_with(&beginning.to_lowercase()))
    };
    let always = [Stratalog::NAME, Driver::NAME, work::BARE];
    peers.retain(|peer| always.contains(&peer.name) || asked(peer.name));
    peers
}

/// The first line of a file that begins so, without that beginning.
fn line(path: &str, beginning: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let line = text.lines().find_map(|line| line.strip_prefix(beginning));
    line.map_or_else(|| "unknown".into(), |line| line.trim_start_matches([' ', '\t', ':']).into())
}

/// What the figures are worth: whose RocksDB it is.
fn rocksdb() -> &'static str {
    match (cfg!(feature = "rocksdb"), option_env!("ROCKSDB_LIB_DIR")) {
        (false, _) => "left out",
        (true, None) => "compiled from the crate's source",
        (true, Some(_)) => "the system's library (ROCKSDB_LIB_DIR)",
    }
}

/// What one has to know to read the figures.
fn about(arguments: &Arguments, setup: &Setup) -> Vec<String> {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let dir = rustix::fs::statfs(&setup.dir)
        .map_or_else(|error| error.to_string(), |of| format!("{:#x}", of.f_type));
    vec![
        format!(
            "{} records of 768 x f32, 256 bytes of content, 16 bytes of id ({} MB of payload); \
             medians of {} interleaved rounds",
            setup.records,
            setup.records * data::PAYLOAD / 1_000_000,
            arguments.rounds
        ),
        format!(
            "{cpus} cpus, {}; Linux {}; file system {dir} (0xef53: ext4); load {}",
            line("/proc/cpuinfo", "model name"),
            line("/proc/sys/kernel/osrelease", ""),
            line("/proc/loadavg", ""),
        ),
        format!("RocksDB: {}", rocksdb()),
    ]
}

/// Has one step of one engine done by a process of its own.
fn child(
    arguments: &Arguments,
    setup: &Setup,
    name: &str,
    step: &str,
) -> Result<serde_json::Value, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--dir").arg(&setup.dir).args(["--engine", name, "--step", step]);
    let numbers = [
        ("--records", arguments.records),
        ("--gets", arguments.gets),
        ("--durable", arguments.durable),
    ];
    for (flag, number) in numbers {
        command.args([flag, &number.to_string()]);
    }
    if let Some(stretch) = arguments.stretch {
        command.args(["--stretch", &stretch.to_string()]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    let died = step == FILL_AND_DIE && output.status.signal() == Some(9);
    if !output.status.success() && !died {
        return Err(format!("{name}, {step}: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// All rounds: in each everybody's turn, each beginning with another engine.
fn rounds(arguments: &Arguments, setup: &Setup, peers: &[Peer]) -> Result<Samples, Failure> {
    let mut samples = Samples::default();
    for round in 0..arguments.rounds {
        for part in PARTS {
            let asked = arguments.parts.iter().any(|asked| asked == part);
            if !asked && (!arguments.parts.is_empty() || part == SUSTAINED) {
                continue;
            }
            let begin = Instant::now();
            for n in 0..peers.len() {
                let peer = &peers[(n + round as usize) % peers.len()];
                for (_, step, _) in peer.steps.iter().filter(|step| step.0 == part) {
                    let told = child(arguments, setup, peer.name, step)?;
                    samples.hear(round, peer.name, &told)?;
                }
            }
            eprintln!(
                "round {} of {}, {part}: {:.1?}",
                round + 1,
                arguments.rounds,
                begin.elapsed()
            );
        }
    }
    Ok(samples)
}

fn setup(arguments: &Arguments, dir: PathBuf) -> Setup {
    let values = data::Values::new();
    Setup {
        dot: data::Dot::new(&values),
        values,
        asked: data::Asked::new(arguments.records),
        records: arguments.records,
        gets: Duration::from_millis(arguments.gets),
        durable: Duration::from_millis(arguments.durable),
        stretch: arguments.stretch,
        kept: arguments.dir.as_ref().unwrap_or(&dir).join("kept"),
        dir,
    }
}

/// What a process does that was started for one step.
fn one_step(arguments: &Arguments, setup: &Setup, name: &str) -> Result<(), Failure> {
    let peers = peers(&[]);
    let mut steps = peers.iter().filter(|peer| peer.name == name).flat_map(|peer| &peer.steps);
    let step = steps.find(|(_, step, _)| Some(*step) == arguments.step.as_deref());
    let (_, _, work) = step.ok_or("no such step of no such engine")?;
    let mut done = Done::default();
    work(setup, &mut done)?;
    println!("{}", samples::tell(&done));
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mut arguments = Arguments::parse();
    if arguments.quick {
        arguments.records = arguments.records.min(20_000);
        arguments.rounds = arguments.rounds.min(3);
        arguments.gets = arguments.gets.min(60);
        arguments.durable = arguments.durable.min(250);
    }
    let dir = match &arguments.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let setup = setup(&arguments, dir.path().into());
    if let Some(name) = &arguments.engine {
        return one_step(&arguments, &setup, name);
    }
    let about = about(&arguments, &setup);
    let mut peers = peers(&arguments.only);
    let samples = rounds(&arguments, &setup, &peers)?;
    println!("{}\nLoad at the end: {}", about.join("\n"), line("/proc/loadavg", ""));
    let names: Vec<_> = peers.iter().map(|peer| peer.name).collect();
    print!("{}", report::markdown(&samples.all, &names)?);
    print!("{}", targets::markdown(&samples.all, arguments.rounds)?);
    println!("\nWhat a buffered put keeps:\n\n| | |\n| --- | --- |");
    peers.retain(|peer| !peer.keeps.is_empty());
    peers.iter().for_each(|peer| println!("| {} | {} |", peer.name, peer.keeps));
    if let Some(dir) = &arguments.plots {
        plot::all(&samples, &names, dir)?;
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report::json(&samples, &about))?;
        std::fs::write(path, text)?;
    }
    Ok(dir.close()?)
}
