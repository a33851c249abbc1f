//! Processes of containers: owns their start in their own session, their pid files and their
//! end. It must not decide whether one is started again.
//!
//! A process dies with the agent (PR_SET_PDEATHSIG); where that fails, the next agent finds
//! it by its pid file, which holds the start time so that a reused pid is not mistaken.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;
use rustix::process::{
    Pid, Signal, kill_process, kill_process_group, set_parent_process_death_signal, setsid,
};

use super::log;

/// What to run.
#[derive(Debug)]
pub struct Plan {
    /// Program.
    pub program: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// Working directory.
    pub directory: PathBuf,
    /// Log file.
    pub log: PathBuf,
    /// Pid file.
    pub pid_file: PathBuf,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, 128 + signal for a signal.
    pub code: i32,
    /// Signal, if one ended it.
    pub signal: Option<i32>,
}

/// A running process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its pid, which is its process group and session too.
    pub pid: u32,
}

impl Process {
    /// Asks the main process to end.
    pub fn terminate(&self) {
        if let Some(pid) = pid(self.pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Ends the whole group at once.
    pub fn kill(&self) {
        if let Some(pid) = pid(self.pid) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

type Work = Box<dyn FnOnce() + Send>;

/// Starts processes on one thread that lives as long as the agent: the death signal is tied
/// to the thread that started the child, and tokio's threads come and go.
pub struct Spawner(mpsc::Sender<Work>);

impl Spawner {
    /// Starts the thread.
    pub fn start() -> Self {
        let (sender, receiver) = mpsc::channel::<Work>();
        let _ = std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                while let Ok(work) = receiver.recv() {
                    work();
                }
            });
        Self(sender)
    }

    /// Starts a process; `ended` is called once with its exit, after its log is complete.
    ///
    /// # Errors
    /// Why the program could not be started.
    pub async fn spawn(
        &self,
        plan: Plan,
        ended: impl FnOnce(Exit) + Send + 'static,
    ) -> io::Result<Process> {
        let (answer, started) = tokio::sync::oneshot::channel();
        let work: Work = Box::new(move || {
            let _ = answer.send(start(plan, ended));
        });
        let gone = || io::Error::other("the thread that starts processes has ended");
        self.0.send(work).map_err(|_| gone())?;
        started.await.map_err(|_| gone())?
    }
}

fn start(plan: Plan, ended: impl FnOnce(Exit) + Send + 'static) -> io::Result<Process> {
    if let Some(parent) = plan.log.parent() {
        fs::create_dir_all(parent)?;
    }
    let log = Arc::new(Mutex::new(
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&plan.log)?,
    ));
    let mut command = Command::new(&plan.program);
    command
        .args(&plan.args)
        .env_clear()
        .envs(plan.environment)
        .current_dir(&plan.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let agent = rustix::process::getpid();
    let prepare = move || {
        setsid()?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The agent may have died before the signal was asked for.
        if rustix::process::getppid() == Some(agent) {
            Ok(())
        } else {
            Err(io::Error::other("orphaned"))
        }
    };
    // SAFETY: between fork and exec the closure makes system calls only: it neither allocates
    // on success nor takes locks. There is no safe way to set a death signal from outside.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(prepare);
    }
    let mut child = command.spawn()?;
    let id = child.id();
    let start_time = start_time(id).unwrap_or_default();
    fs::write(&plan.pid_file, format!("{id} {start_time}\n"))?;
    let outputs = readers(&mut child, &log);
    let waiter = std::thread::Builder::new().name("container".into());
    waiter.spawn(move || {
        let status = child.wait();
        // What the container left running holds its pipes open, so it goes first.
        Process { pid: id }.kill();
        outputs.into_iter().for_each(|reader| drop(reader.join()));
        log::finish(&plan.log);
        let _ = fs::remove_file(&plan.pid_file);
        let exit = status.map_or(
            Exit {
                code: 255,
                signal: None,
            },
            |s| Exit {
                code: s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(0)),
                signal: s.signal(),
            },
        );
        ended(exit);
    })?;
    Ok(Process { pid: id })
}

fn readers(child: &mut Child, log: &Arc<Mutex<File>>) -> Vec<std::thread::JoinHandle<()>> {
    let mut all = Vec::new();
    if let Some(out) = child.stdout.take() {
        let log = log.clone();
        all.extend(std::thread::Builder::new().spawn(move || log::copy(out, "stdout", &log)));
    }
    if let Some(err) = child.stderr.take() {
        let log = log.clone();
        all.extend(std::thread::Builder::new().spawn(move || log::copy(err, "stderr", &log)));
    }
    all
}

/// Start time of a process in clock ticks since boot: with the pid it names the process.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may hold spaces; the start time is the 20th field after it.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Kills what an agent that died without stopping left behind, and completes its logs.
pub fn end_leftovers(directory: &Path) {
    let pods = fs::read_dir(directory.join("pods"))
        .into_iter()
        .flatten()
        .flatten();
    for pod in pods {
        let files = fs::read_dir(pod.path()).into_iter().flatten().flatten();
        for file in files
            .map(|f| f.path())
            .filter(|p| p.extension().is_some_and(|e| e == "pid"))
        {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let mut words = text.split_whitespace();
            let known = words
                .next()
                .and_then(|w| w.parse::<u32>().ok())
                .zip(words.next().and_then(|w| w.parse::<u64>().ok()));
            if let Some((pid, since)) = known
                && start_time(pid) == Some(since)
            {
                Process { pid }.kill();
            }
            let _ = fs::remove_file(&file);
        }
        let logs = fs::read_dir(pod.path().join("logs"))
            .into_iter()
            .flatten()
            .flatten();
        logs.map(|f| f.path())
            .filter(|p| p.extension().is_some_and(|e| e == "log"))
            .for_each(|p| log::finish(&p));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(directory: &Path, script: &str) -> Plan {
        Plan {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            directory: directory.to_path_buf(),
            log: directory.join("logs/c.0.log"),
            pid_file: directory.join("c.pid"),
        }
    }

    async fn run(script: &str) -> (Exit, String) {
        let directory = tempfile::tempdir().unwrap();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let spawner = Spawner::start();
        spawner
            .spawn(plan(directory.path(), script), |exit| {
                sender.send(exit).unwrap()
            })
            .await
            .unwrap();
        let exit = receiver.await.unwrap();
        (exit, log::tail(&directory.path().join("logs/c.0.log")))
    }

    #[tokio::test]
    async fn exit_code_signal_and_output_are_seen() {
        assert_eq!(
            run("echo out; echo err >&2; exit 65").await.0,
            Exit {
                code: 65,
                signal: None
            }
        );
        assert_eq!(
            run("kill -TERM $$").await.0,
            Exit {
                code: 143,
                signal: Some(15)
            }
        );
        assert_eq!(run("echo one; echo two").await.1, "one\ntwo");
    }

    #[tokio::test]
    async fn a_grandchild_does_not_outlive_its_container() {
        // The grandchild holds the pipe: without the kill of the group this would take a minute.
        let (exit, _) = run("sleep 60 & exit 3").await;
        assert_eq!(exit.code, 3);
    }

    #[tokio::test]
    async fn a_leftover_is_killed_but_a_reused_pid_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let pod = directory.path().join("pods/uid");
        fs::create_dir_all(&pod).unwrap();
        let mut left = Command::new("sleep")
            .arg("60")
            .process_group(0)
            .spawn()
            .unwrap();
        let mut other = Command::new("sleep")
            .arg("60")
            .process_group(0)
            .spawn()
            .unwrap();
        let since = start_time(left.id()).unwrap();
        fs::write(pod.join("a.pid"), format!("{} {since}\n", left.id())).unwrap();
        fs::write(pod.join("b.pid"), format!("{} 1\n", other.id())).unwrap();
        end_leftovers(directory.path());
        assert_eq!(left.wait().unwrap().signal(), Some(9));
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
