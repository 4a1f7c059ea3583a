//! Runs on several filesystems, two at a time, each as a process with a directory of
//! its own: of the daemon as it is, or of each defect that has to be found.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};

use crate::finding::Finding;
use crate::options::All;
use crate::place::Filesystem;
use crate::result::Result;

/// What one of these environment variables switches is for the tests alone.
const SWITCHES: &str = "SESSIONFS_(DEFECT|WITHOUT_TMPFILE)";

/// Stages as where there is no `O_TMPFILE`, if it is set.
const WITHOUT_TMPFILE: &str = "SESSIONFS_WITHOUT_TMPFILE";

/// How many runs there are at the same time.
const AT_ONCE: usize = 2;

/// What has to be found.
struct Tooth {
    name: &'static str,
    /// One of src/sys/defect.rs; `None`: programs that save in place.
    defect: Option<&'static str>,
    found: Finding,
    /// So many cuts; by default all.
    points: Option<usize>,
}

/// What is wrong for long is found by a few cuts, over all that has been recorded.
const FEW: Option<usize> = Some(300);

#[rustfmt::skip]
const TEETH: [Tooth; 7] = [
    tooth("without-fsync-of-files", Some("files-not-synced"), Finding::Torn, None),
    tooth("without-fsync-of-directories", Some("directories-not-synced"), Finding::Lost, None),
    tooth("without-attributes", Some("attributes-left-out"), Finding::Mixed, FEW),
    tooth("attributes-after-the-rename", Some("attributes-after-rename"), Finding::Mixed, None),
    tooth("attributes-of-the-base", Some("attributes-of-the-base"), Finding::Mixed, FEW),
    tooth("without-the-killed", Some("killed-not-seen"), Finding::Unasked, FEW),
    tooth("in-place", None, Finding::Torn, None),
];

const fn tooth(
    name: &'static str,
    defect: Option<&'static str>,
    found: Finding,
    points: Option<usize>,
) -> Tooth {
    Tooth {
        name,
        defect,
        found,
        points,
    }
}

/// Status 1 if anything was found, or a tooth was not.
pub fn run(all: &All) -> Result<ExitCode> {
    let runs = Runs::prepare(all)?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("seed {}, kernel {}", runs.seed, kernel.trim());
    let mut tasks = VecDeque::new();
    for &on in Filesystem::ALL {
        if !all.on.is_empty() && !all.on.contains(&on) {
            continue;
        }
        match all.teeth {
            true => tasks.extend(TEETH.iter().map(|tooth| (on, Some(tooth)))),
            false => tasks.push_back((on, None)),
        }
    }
    let mut is_good = true;
    let mut running = VecDeque::new();
    loop {
        while running.len() < AT_ONCE
            && let Some((on, tooth)) = tasks.pop_front()
        {
            running.push_back(runs.start(on, tooth)?);
        }
        match running.pop_front() {
            Some(one) => is_good &= one.finish()?,
            None => return Ok(ExitCode::from(u8::from(!is_good))),
        }
    }
}

/// What the runs have in common.
struct Runs<'a> {
    all: &'a All,
    seed: u64,
    keep: Option<PathBuf>,
}

/// One of them, in the background.
struct Running {
    name: String,
    /// What it has to find.
    tooth: Option<&'static Tooth>,
    process: Child,
    output: PathBuf,
    seed: u64,
}

impl<'a> Runs<'a> {
    /// Copies the programs: somebody may build meanwhile.
    fn prepare(all: &'a All) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err("it makes filesystems and mounts them: run it as root".into());
        }
        // What is made has the mode 0644; other users come through.
        rustix::process::umask(0o022.into());
        fs::set_permissions(&all.work, fs::Permissions::from_mode(0o711))?;

        let this = std::env::current_exe()?;
        let examples = this.parent().ok_or("a program in no directory")?;
        // Another build can be tried as well.
        let sessionfs = std::env::var_os("SESSIONFS").map(PathBuf::from);
        let sessionfs = sessionfs.unwrap_or_else(|| examples.with_file_name("sessionfs"));
        let has_switches = |program: &PathBuf| {
            let mut grep = Command::new("grep");
            grep.args(["-qE", SWITCHES]).arg(program).status()
        };
        if has_switches(&sessionfs)?.success() {
            return Err(format!("{} has the switches of its tests", sessionfs.display()).into());
        }
        fs::copy(&this, all.work.join("power_cuts"))?;
        let with_switches = examples.join("daemon_with_switches");
        if all.teeth || all.without_tmpfile {
            if !has_switches(&with_switches)?.success() {
                return Err("the switches are not in the daemon".into());
            }
            fs::copy(&with_switches, all.work.join("daemon_with_switches"))?;
        }
        let program = match all.without_tmpfile {
            true => with_switches,
            false => sessionfs,
        };
        fs::copy(program, all.work.join("sessionfs"))?;
        Ok(Self {
            all,
            seed: all
                .seed
                .unwrap_or_else(|| crate::random::any_seed() % 100_000),
            keep: all.size.keep.as_deref().map(fs::canonicalize).transpose()?,
        })
    }

    fn start(&self, on: Filesystem, tooth: Option<&'static Tooth>) -> Result<Running> {
        let work = &self.all.work;
        let name = match tooth {
            Some(tooth) => format!("{}-{}", on.name(), tooth.name),
            None => on.name().to_owned(),
        };
        let directory = work.join(&name);
        fs::create_dir(&directory)?;
        let mut command = Command::new(work.join("power_cuts"));
        command.arg("run").args(["--on", on.name()]);
        command.arg("--directory").arg(directory);
        command.arg("--sessionfs").arg(work.join("sessionfs"));
        command.arg("--seed").arg(self.seed.to_string());
        let size = &self.all.size;
        command.arg("--saves").arg(size.saves.to_string());
        if let Some(points) = size.points.or(tooth.and_then(|tooth| tooth.points)) {
            command.arg("--points").arg(points.to_string());
        }
        if let Some(keep) = &self.keep {
            command.arg("--keep").arg(keep);
        }
        if let Some(tooth) = tooth {
            command.arg("--until").arg(tooth.found.to_string());
            match tooth.defect {
                Some(defect) => {
                    let daemon = work.join("daemon_with_switches");
                    command.arg("--daemon").arg(daemon);
                    command.args(["--defect", defect]);
                }
                None => {
                    command.arg("--in-place");
                }
            }
        }
        if self.all.without_tmpfile {
            command.env(WITHOUT_TMPFILE, "yes");
        }
        let output = work.join(format!("{name}.out"));
        let told = File::create(&output)?;
        command.stdout(told.try_clone()?).stderr(told);
        Ok(Running {
            name,
            tooth,
            process: command.spawn()?,
            output,
            seed: self.seed,
        })
    }
}

impl Running {
    /// Waits for it, and tells what came of it: whether that is good.
    fn finish(mut self) -> Result<bool> {
        let status = self.process.wait()?;
        let told = fs::read_to_string(&self.output)?;
        let name = &self.name;
        let is_found = match status.code() {
            Some(0) => false,
            Some(1) => true,
            _ => {
                let lines: Vec<_> = told.lines().collect();
                eprintln!("{}", lines[lines.len().saturating_sub(20)..].join("\n"));
                return Err(format!("{name}: seed {}: no result", self.seed).into());
            }
        };
        if self.tooth.is_none() || !is_found {
            print!("{told}");
        }
        if self.tooth.is_some() {
            match is_found {
                true => println!("{name}: found: {}", told.lines().last().unwrap_or_default()),
                false => eprintln!("power-cuts: {name}: nothing was found"),
            }
        }
        Ok(is_found == self.tooth.is_some())
    }
}
