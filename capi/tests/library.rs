//! The installed library as packagers and C programs have it: soname, symbols, pkg-config, the C
//! example, and `border.c` under AddressSanitizer and valgrind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::{Net, PROTO_KERNEL, full_or_quick, skipped, vip};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// Runs a command, which must succeed, and returns both of its outputs.
fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}",
        output.status
    );
    text
}

/// Whether the machine has this program. Says which test lacks it otherwise.
fn has(program: &str, test: &str) -> bool {
    let has = Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !has {
        skipped(test, &format!("no command {program}"));
    }
    has
}

/// The prefix where `capi/install` has put the library.
fn installed() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi");
        let mut install = Command::new(Path::new(HERE).join("install"));
        run(install.arg(&prefix).env_remove("DESTDIR"));
        prefix
    })
}

fn library() -> PathBuf {
    installed().join("lib/libviproute.so")
}

fn pkg_config(arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command
        .args(arguments)
        .env("PKG_CONFIG_PATH", installed().join("lib/pkgconfig"));
    run(&mut command)
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Compiles a program of this folder against the package.
fn compile(source: &str, name: &str, package: &str, flags: &[&str]) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    run(Command::new("cc")
        .args([
            "-std=gnu99",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-g",
            "-pthread",
        ])
        .args(flags)
        .arg(Path::new(HERE).join(source))
        .arg("-o")
        .arg(&program)
        .args(pkg_config(&["--cflags", "--libs", package])));
    program
}

fn started(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", installed().join("lib"));
    command
}

#[test]
fn soname_has_the_first_number_of_the_version() {
    if !has("readelf", "soname") {
        return;
    }
    let dynamic = run(Command::new("readelf").arg("-d").arg(library()));
    let major = env!("CARGO_PKG_VERSION_MAJOR");
    assert!(
        dynamic.contains(&format!("soname: [libviproute.so.{major}]")),
        "{dynamic}"
    );
    for line in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
        let known = ["[libc.so.6]", "[libgcc_s.so.1]", "[ld-linux"];
        assert!(
            known.iter().any(|name| line.contains(name)),
            "another library: {line}"
        );
    }
}

/// The functions that the header declares.
fn declared() -> BTreeSet<String> {
    let header = std::fs::read_to_string(installed().join("include/viproute.h")).unwrap();
    let code = header
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let declared: BTreeSet<String> = code
        .filter_map(|line| line.split_once('(')?.0.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("viproute_"))
        .map(str::to_owned)
        .collect();
    assert!(
        declared.contains("viproute_version") && declared.len() > 30,
        "{declared:?}"
    );
    declared
}

#[test]
fn library_exports_the_functions_of_the_header_and_nothing_else() {
    if !has("nm", "symbols") {
        return;
    }
    assert_eq!(exported(&library()), declared());
}

/// The functions that a library exports.
fn exported(library: &Path) -> BTreeSet<String> {
    let symbols = run(Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(library));
    let names = symbols
        .lines()
        .filter_map(|line| line.split_whitespace().last());
    names.map(str::to_owned).collect()
}

#[test]
fn cargo_c_installs_the_same_library() {
    let test = "cargo-c";
    if !has("cargo-cinstall", test) || !has("nm", test) || !has("readelf", test) {
        return;
    }
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cargo-c");
    let mut install = Command::new("cargo-cinstall");
    install
        .args(["cinstall", "--debug", "--offline", "--manifest-path"])
        .arg(Path::new(HERE).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(to.join("target"))
        .arg("--destdir")
        .arg(&to)
        .args(["--prefix", "/usr", "--libdir", "lib"]);
    run(&mut install);
    let library = to.join("usr/lib/libviproute.so.0");
    assert_eq!(exported(&library), declared());
    let dynamic = run(Command::new("readelf").arg("-d").arg(library));
    assert!(dynamic.contains("soname: [libviproute.so.0]"), "{dynamic}");
    for file in [
        "include/viproute.h",
        "lib/pkgconfig/viproute.pc",
        "lib/libviproute.a",
    ] {
        assert!(to.join("usr").join(file).exists(), "no {file}");
    }
}

#[test]
fn border_c_calls_every_function() {
    if !has("cc", "functions") || !has("pkg-config", "functions") {
        return;
    }
    let program = compile("tests/border.c", "border-functions", "viproute", &[]);
    let called = run(started(&program).arg("--functions"));
    let called = called.lines().map(str::to_owned);
    assert_eq!(called.collect::<BTreeSet<_>>(), declared());

    let source = include_str!("border.c");
    let parts = source
        .split_once("// Every function of the library.")
        .unwrap();
    for name in declared() {
        let call = format!("{name}(");
        assert!(parts.0.contains(&call), "no call with NULL: {name}");
        assert!(parts.1.contains(&call), "no call at random: {name}");
    }
}

#[test]
fn version_is_the_same_everywhere() {
    if !has("pkg-config", "versions") {
        return;
    }
    let library = include_str!("../../Cargo.toml");
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        library.contains(&format!("\nversion = \"{version}\"\n")),
        "the library has another"
    );
    assert_eq!(pkg_config(&["--modversion", "viproute"]), [version]);
}

#[test]
fn header_compiles_as_c_and_as_cpp() {
    let include = format!("-I{}/include", HERE);
    for (compiler, language, standard) in [("cc", "c", "-std=c99"), ("c++", "c++", "-std=c++11")] {
        if !has(compiler, "header") {
            continue;
        }
        let header = Path::new(HERE).join("include/viproute.h");
        let warnings = ["-Wall", "-Wextra", "-Werror", "-pedantic"];
        let mut command = Command::new(compiler);
        command
            .args(["-fsyntax-only", standard, "-x", language, &include])
            .args(warnings);
        run(command.arg(header));
    }
}

#[test]
fn example_assigns_with_the_shared_and_the_static_library() {
    if !has("cc", "example") || !has("pkg-config", "example") {
        return;
    }
    let net = Net::new();
    for (package, vips) in [
        ("viproute", ["10.96.0.10", "10.96.0.11"]),
        ("viproute-static", ["10.96.0.12", "10.96.0.13"]),
    ] {
        let program = compile(
            "examples/assign.c",
            &format!("assign-{package}"),
            package,
            &[],
        );
        let said = run(started(&program).arg("192.0.2.10").args(vips));
        assert!(said.contains("\"assigned\":2"), "{said}");
        net.assert_single_route(&vips.map(vip), PROTO_KERNEL);
        let needs = run(Command::new("readelf").arg("-d").arg(&program));
        assert_eq!(
            needs.contains("libviproute"),
            package == "viproute",
            "{needs}"
        );
    }
    let program = compile("examples/assign.c", "assign", "viproute", &[]);
    let output = started(&program)
        .args(["192.0.2.99", "10.96.0.10"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("10.96.0.10: "), "{said}");
}

#[test]
fn border_holds() {
    if !has("cc", "border") || !has("pkg-config", "border") {
        return;
    }
    let _net = Net::new();
    let program = compile("tests/border.c", "border", "viproute", &[]);
    let rounds = full_or_quick("3000", "300");
    assert!(run(started(&program).arg(rounds)).contains("all checks passed"));
}

#[test]
fn border_holds_under_address_sanitizer() {
    if !has("cc", "AddressSanitizer") || !has("pkg-config", "AddressSanitizer") {
        return;
    }
    let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let empty = Path::new(env!("CARGO_TARGET_TMPDIR")).join("empty.c");
    std::fs::write(&empty, "int main(void) { return 0; }\n").unwrap();
    let mut probe = Command::new("cc");
    probe
        .args(flags)
        .arg(&empty)
        .arg("-o")
        .arg(empty.with_extension("out"));
    if !probe.output().unwrap().status.success() {
        return skipped("border.c under AddressSanitizer", "cc has no libasan");
    }
    let _net = Net::new();
    let program = compile("tests/border.c", "border-asan", "viproute", &flags);
    let rounds = full_or_quick("2000", "200");
    assert!(run(started(&program).arg(rounds)).contains("all checks passed"));
}

#[test]
fn border_holds_under_valgrind() {
    let test = "border.c under valgrind";
    if !has("cc", test) || !has("pkg-config", test) || !has("valgrind", test) {
        return;
    }
    let _net = Net::new();
    let program = compile("tests/border.c", "border-valgrind", "viproute", &[]);
    let mut valgrind = started(Path::new("valgrind"));
    valgrind.args(["--quiet", "--error-exitcode=9", "--leak-check=full"]);
    let said = run(valgrind.arg(program).arg(full_or_quick("100", "20")));
    assert!(said.contains("all checks passed"), "{said}");
}
