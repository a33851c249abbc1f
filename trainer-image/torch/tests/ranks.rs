//! Real processes that work together, and everything that can become of one of them.
#![cfg(test)]
// reason: a test says what it expects by failing
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bessemer_torch::distributed::{Error, Group, Membership, Store};
use tch::Tensor;

const SCENE: &str = "BESSEMER_RANKS_TEST_SCENE";
const RANK: &str = "BESSEMER_RANKS_TEST_RANK";
const SIZE: &str = "BESSEMER_RANKS_TEST_SIZE";
const ADDRESS: &str = "BESSEMER_RANKS_TEST_ADDRESS";

/// A port that is free now.
fn rendezvous() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn membership(rank: usize, size: usize, rendezvous: &str) -> Membership {
    Membership {
        rank,
        size,
        rendezvous: rendezvous.to_owned(),
        // Rank r at 127.0.0.(r + 1), so that messages show whose address they name.
        own: IpAddr::V4(Ipv4Addr::new(127, 0, 0, u8::try_from(rank).unwrap() + 1)),
        patience: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
    }
}

fn start(scene: &str, size: usize) -> Vec<Child> {
    let address = rendezvous();
    (0..size)
        .map(|rank| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child", "--nocapture", "--test-threads=1"])
                .env(SCENE, scene)
                .env(RANK, rank.to_string())
                .env(SIZE, size.to_string())
                .env(ADDRESS, &address)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// What each rank printed, in order.
fn play(scene: &str, size: usize) -> Vec<String> {
    let children = start(scene, size);
    children
        .into_iter()
        .map(|child| said(&child.wait_with_output().unwrap()))
        .collect()
}

/// The work of a child process; does nothing when the test harness calls it itself.
#[test]
fn child() {
    let Ok(scene) = std::env::var(SCENE) else {
        return;
    };
    let number = |name: &str| std::env::var(name).unwrap().parse::<usize>().unwrap();
    let (rank, size) = (number(RANK), number(SIZE));
    let mut membership = membership(rank, size, &std::env::var(ADDRESS).unwrap());
    if scene == "slow" {
        membership.timeout = Duration::from_secs(3);
    }
    let mut group = Group::join(&membership, &|| false).unwrap();
    let one = Tensor::from_slice(&[1.0f32]);
    group.sum(&one).unwrap();
    match (scene.as_str(), rank) {
        ("operations", _) => operations(group),
        ("first dies", 0) | ("second dies", 1) => std::process::abort(),
        ("leaves", 1) => group.leave("its disk is full"),
        ("slow", 1) => {
            // Alive, but in no operation, until the test has seen what the others say.
            let _ = std::io::stdin().read(&mut [0]);
        }
        _ => loop {
            if let Err(error) = group.sum(&one) {
                println!("ERROR {}: {error}", error.category());
                let closed = group.barrier().unwrap_err().to_string();
                assert!(closed.contains("the group is closed"), "{closed}");
                return;
            }
        },
    }
}

fn operations(mut group: Group) {
    let (rank, size) = (group.rank() as i64, group.size() as i64);
    let triangle = (size * (size + 1) / 2) as f64;
    let numbers = Tensor::arange(1000, (tch::Kind::Float, tch::Device::Cpu)) + rank;
    let sum = numbers.copy();
    group.sum(&sum).unwrap();
    assert_eq!(
        sum.double_value(&[10]),
        (10 * size) as f64 + triangle - size as f64
    );
    let mean = Tensor::from_slice(&[rank as f64 + 1.0]);
    group.average(&mean).unwrap();
    assert!((mean.double_value(&[0]) - triangle / size as f64).abs() < 1e-12);
    let told = Tensor::from_slice(&[rank, 7 * rank]);
    group.broadcast(&told, 1).unwrap();
    assert_eq!(Vec::<i64>::try_from(told).unwrap(), [1, 7]);
    let all = group
        .all_gather(&numbers.narrow(0, 0, 3).contiguous())
        .unwrap();
    assert_eq!(all.len() as i64, size);
    for (peer, tensor) in all.iter().enumerate() {
        assert_eq!(tensor.double_value(&[2]), 2.0 + peer as f64);
    }
    group.barrier().unwrap();
    println!(
        "DONE {:x}",
        sum.sum(tch::Kind::Double).double_value(&[]).to_bits()
    );
}

#[test]
fn two_and_three_ranks_reduce_broadcast_and_gather() {
    for size in [2, 3] {
        let all = play("operations", size);
        assert_eq!(all.len(), size);
        let done = |text: &String| {
            let line = text.lines().find_map(|line| line.split_once("DONE "));
            line.map(|(_, bits)| bits.to_owned())
        };
        assert!(done(&all[0]).is_some(), "{all:?}");
        assert!(
            all.iter().all(|text| done(text) == done(&all[0])),
            "{all:?}"
        );
    }
}

/// What a surviving rank said of its end.
fn error(text: &str) -> &str {
    let line = text.lines().find_map(|line| line.split_once("ERROR "));
    line.unwrap_or_else(|| panic!("no error in {text}")).1
}

#[test]
fn survivors_name_the_rank_that_died_its_address_and_the_operation() {
    for (size, scene, dead) in [
        (2, "second dies", 1),
        (3, "second dies", 1),
        (3, "first dies", 0),
    ] {
        let all = play(scene, size);
        for rank in (0..size).filter(|&rank| rank != dead) {
            let said = error(&all[rank]);
            assert!(said.starts_with("RankLost: all_reduce 2 of rank"), "{said}");
            let named = format!("rank {dead} at 127.0.0.{}", dead + 1);
            assert!(said.contains(&named) && said.contains("is lost"), "{said}");
            let others = (0..size).filter(|&other| other != dead);
            for other in others {
                assert!(!said.contains(&format!("rank {other} at")), "{said}");
            }
        }
    }
}

#[test]
fn a_rank_that_leaves_tells_the_others_why() {
    let all = play("leaves", 3);
    for rank in [0, 2] {
        let said = error(&all[rank]);
        assert!(said.contains("rank 1 ended: its disk is full"), "{said}");
    }
}

#[test]
fn a_rank_that_is_late_is_named_with_what_it_does() {
    let mut children = start("slow", 2);
    let late = children.pop().unwrap();
    let said = said(&children.pop().unwrap().wait_with_output().unwrap());
    let said = error(&said);
    let named = "no rank is lost; rank 1 at 127.0.0.2 is alive in work after all_reduce 1";
    assert!(said.contains(named), "{said}");
    assert!(late.wait_with_output().unwrap().status.success());
}

#[test]
fn a_group_that_cannot_form_says_what_is_missing() {
    let soon = |rank, size, rendezvous: &str| Membership {
        patience: Duration::from_millis(600),
        ..membership(rank, size, rendezvous)
    };
    let refused = |membership: &Membership| Group::join(membership, &|| false).unwrap_err();
    let said = refused(&soon(1, 2, "no-such-host.invalid:29500"));
    assert!(matches!(said, Error::Unresolvable { .. }), "{said}");
    assert!(
        said.to_string().contains("no-such-host.invalid:29500"),
        "{said}"
    );
    let nobody = rendezvous();
    let said = refused(&soon(1, 2, &nobody));
    assert!(matches!(said, Error::Unreachable { .. }), "{said}");
    assert!(said.to_string().contains(&nobody), "{said}");
    let said = refused(&soon(0, 2, &rendezvous()));
    assert!(matches!(said, Error::Absent { rank: 1, .. }), "{said}");
    let said = refused(&soon(2, 2, &rendezvous()));
    assert!(matches!(said, Error::Refused { rank: 2, .. }), "{said}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = refused(&soon(0, 2, &taken.local_addr().unwrap().to_string()));
    assert!(matches!(said, Error::Listen { .. }), "{said}");
    let patient = membership(0, 2, &rendezvous());
    let said = Group::join(&patient, &|| true).unwrap_err();
    assert!(matches!(said, Error::Stopped), "{said}");
}

#[test]
fn a_store_is_shared_waits_and_tells_which_key_did_not_come() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let patience = Duration::from_secs(60);
    let served = Store::serve(listener, patience).unwrap();
    let other = Store::connect("127.0.0.1", port, patience).unwrap();
    served.set("key", b"value\0with zero").unwrap();
    assert_eq!(other.get("key", patience).unwrap(), b"value\0with zero");
    assert_eq!(other.add("count", 2).unwrap(), 2);
    assert_eq!(served.add("count", -5).unwrap(), -3);
    assert!(!other.has("missing").unwrap() && other.has("key").unwrap());
    assert_eq!(other.first("once", b"a").unwrap(), b"a");
    assert_eq!(served.first("once", b"b").unwrap(), b"a");
    let said = other
        .wait("missing", Duration::from_millis(50))
        .unwrap_err();
    assert!(
        matches!(
            said,
            Error::Store {
                operation: "wait",
                ..
            }
        ),
        "{said}"
    );
    let said = said.to_string();
    assert!(
        said.contains("missing") && said.contains(&format!("127.0.0.1:{port}")),
        "{said}"
    );
    // The connection is whole after a wait that was in vain.
    let waiting =
        std::thread::spawn(move || other.get("late", patience).map(|value| (other, value)));
    served.set("late", b"now").unwrap();
    let (other, value) = waiting.join().unwrap().unwrap();
    assert_eq!(value, b"now");
    drop(served);
    assert!(matches!(other.set("key", b""), Err(Error::Store { .. })) || other.has("key").is_err());
}
