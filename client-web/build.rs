//! Builds the web client into `OUT_DIR` and writes the table that `rust/lib.rs` embeds.
//!
//! Nothing is written into the source tree. The result is keyed by a hash of all inputs, so a build
//! that changes none of them starts no Node at all. Two variables change what happens:
//! `LANYARD_WEB_DIST=dir` embeds a bundle that was built elsewhere, and `LANYARD_WEB=skip` puts a
//! stub page in its place, in debug builds only.

#![expect(
    clippy::disallowed_methods,
    reason = "it writes into the build directory, which is its own"
)]

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

/// All that the bundle is made of, relative to this crate.
const INPUTS: &[&str] = &[
    "src",
    "public",
    "index.html",
    "console.html",
    "package.json",
    "package-lock.json",
    ".npmrc",
    "svelte.config.js",
    "tsconfig.json",
    "vite.config.ts",
];

const NEEDS_NODE: &str = "the web client needs Node 20.19 or newer: install Node from https://nodejs.org, \
     or set LANYARD_WEB_DIST to a directory that holds a built web client";

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=LANYARD_WEB_DIST");
    println!("cargo::rerun-if-env-changed=LANYARD_WEB");
    println!("cargo::rerun-if-changed=build.rs");
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            println!("cargo::error={sentence}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let source = dir_from("CARGO_MANIFEST_DIR")?;
    let out = dir_from("OUT_DIR")?;

    if let Some(dir) = env::var_os("LANYARD_WEB_DIST").filter(|dir| !dir.is_empty()) {
        let dist = fs::canonicalize(&dir).map_err(|error| {
            format!("LANYARD_WEB_DIST={} cannot be read: {error}", dir.display())
        })?;
        println!("cargo::rerun-if-changed={}", dist.display());
        for page in ["index.html", "console.html"] {
            if !dist.join(page).is_file() {
                return Err(format!("LANYARD_WEB_DIST={} holds no {page}", dir.display()));
            }
        }
        return write_table(&dist, &out);
    }

    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", source.join(input).display());
    }

    if env::var_os("LANYARD_WEB").is_some_and(|value| value == "skip") {
        if env::var("PROFILE").as_deref() != Ok("debug") {
            return Err(
                "LANYARD_WEB=skip is for debug builds only: a release always holds the web client"
                    .to_owned(),
            );
        }
        let stub = out.join("stub");
        write_stub(&stub).map_err(|error| format!("the stub page cannot be written: {error}"))?;
        return write_table(&stub, &out);
    }

    let lock_file = fs::File::create(out.join("web.lock"))
        .map_err(|error| format!("the lock of the web build cannot be made: {error}"))?;
    lock_file
        .lock()
        .map_err(|error| format!("the lock of the web build cannot be taken: {error}"))?;

    let key = hash_of(INPUTS.iter().map(|input| source.join(input)), &source)
        .map_err(|error| format!("the sources of the web client cannot be read: {error}"))?;
    let dist = out.join(format!("dist.{key:016x}"));
    if !dist.is_dir() {
        build_bundle(&source, &out, &dist)?;
    }
    drop_other_bundles(&out, &dist);
    write_table(&dist, &out)
}

/// `npm ci` where the lockfile is new, then `vite build`, both inside `OUT_DIR/web`.
fn build_bundle(source: &Path, out: &Path, dist: &Path) -> Result<(), String> {
    require_node()?;
    let web = out.join("web");
    copy_sources(source, &web)
        .map_err(|error| format!("the sources of the web client cannot be copied: {error}"))?;

    let lock_key =
        hash_of(["package-lock.json", "package.json"].iter().map(|name| web.join(name)), &web)
            .map_err(|error| format!("the lockfile cannot be read: {error}"))?;
    let installed = web.join("node_modules").join(format!(".lanyard-{lock_key:016x}"));
    if installed.is_file() {
        println!("cargo::warning=building the web client, a few seconds");
    } else {
        println!("cargo::warning=building the web client, about 15 s the first time");
        let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
        let flags = ["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"];
        finish("npm ci", Command::new(npm).args(flags).current_dir(&web).output())?;
        fs::write(&installed, b"")
            .map_err(|error| format!("node_modules cannot be marked: {error}"))?;
    }

    let fresh = out.join("dist.new");
    remove_if_there(&fresh)
        .map_err(|error| format!("an unfinished bundle cannot be removed: {error}"))?;
    let vite = web.join("node_modules").join("vite").join("bin").join("vite.js");
    let mut build = Command::new("node");
    build.arg(vite).arg("build").arg("--emptyOutDir").arg("--outDir").arg(&fresh);
    finish("vite build", build.current_dir(&web).env("NODE_ENV", "production").output())?;
    fs::rename(&fresh, dist).map_err(|error| format!("the bundle cannot be put in place: {error}"))
}

fn require_node() -> Result<(), String> {
    let output =
        Command::new("node").arg("--version").output().map_err(|_| NEEDS_NODE.to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers =
        text.trim().trim_start_matches('v').split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (20, 19) { Ok(()) } else { Err(format!("{NEEDS_NODE} (found {})", text.trim())) }
}

/// Turns what a tool said into one line: the last of its complaints is the one that names the
/// cause.
fn finish(what: &str, ran: io::Result<Output>) -> Result<(), String> {
    let output = ran.map_err(|error| format!("{what} did not start ({error}); {NEEDS_NODE}"))?;
    if output.status.success() {
        return Ok(());
    }
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stdout));
    eprintln!("{said}");
    let cause = said
        .lines()
        .map(str::trim)
        .find(|line| line.to_lowercase().contains("error"))
        .unwrap_or("see above");
    Err(format!("{what} failed in the web client: {cause}"))
}

fn copy_sources(source: &Path, web: &Path) -> io::Result<()> {
    fs::create_dir_all(web)?;
    for entry in fs::read_dir(web)? {
        let entry = entry?;
        if entry.file_name() != "node_modules" {
            remove_if_there(&entry.path())?;
        }
    }
    for input in INPUTS {
        for file in files_below(&source.join(input))? {
            let target = web.join(file.strip_prefix(source).map_err(io::Error::other)?);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::copy(&file, &target)?;
        }
    }
    Ok(())
}

/// The table of the bundle's files: `&[(path, bytes, content type, etag, immutable)]`.
fn write_table(dist: &Path, out: &Path) -> Result<(), String> {
    let failed =
        |error: io::Error| format!("the bundle in {} cannot be read: {error}", dist.display());
    let mut table = String::from("&[\n");
    for file in files_below(dist).map_err(failed)? {
        let relative = file.strip_prefix(dist).map_err(|error| failed(io::Error::other(error)))?;
        let path = relative
            .components()
            .map(|part| part.as_os_str().to_string_lossy())
            .collect::<Vec<_>>()
            .join("/");
        let mut hasher = DefaultHasher::new();
        fs::read(&file).map_err(failed)?.hash(&mut hasher);
        let (etag, immutable) = (hasher.finish(), path.starts_with("assets/"));
        let _ = writeln!(
            table,
            "    ({path:?}, include_bytes!({:?}), {:?}, \"\\\"{etag:016x}\\\"\", {immutable}),",
            file.display().to_string(),
            content_type(&path),
        );
    }
    table.push_str("]\n");
    fs::write(out.join("assets.rs"), table)
        .map_err(|error| format!("the table of the bundle cannot be written: {error}"))
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "json" | "webmanifest" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn write_stub(stub: &Path) -> io::Result<()> {
    fs::create_dir_all(stub)?;
    let page = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Lanyard</title>\
                <p>This build holds no web client. Build it without LANYARD_WEB=skip.</p></html>\n";
    fs::write(stub.join("index.html"), page)?;
    fs::write(stub.join("console.html"), page)
}

fn hash_of(inputs: impl Iterator<Item = PathBuf>, base: &Path) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    for input in inputs {
        for file in files_below(&input)? {
            file.strip_prefix(base).unwrap_or(&file).hash(&mut hasher);
            fs::read(&file)?.hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

/// Every file at or below a path, in a fixed order. Tests are no part of the bundle.
fn files_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path.is_file() {
        let test = path.to_string_lossy().ends_with(".test.ts");
        return Ok(if test { Vec::new() } else { vec![path.to_owned()] });
    }
    let mut names: Vec<OsString> = fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    names.sort();
    let mut files = Vec::new();
    for name in names {
        files.extend(files_below(&path.join(name))?);
    }
    Ok(files)
}

fn drop_other_bundles(out: &Path, keep: &Path) {
    let Ok(entries) = fs::read_dir(out) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path != keep) {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("dist.")) {
            let _ = remove_if_there(&path);
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        fs::remove_dir_all(path)
    } else if path.exists() {
        fs::remove_file(path)
    } else {
        Ok(())
    }
}

fn dir_from(variable: &str) -> Result<PathBuf, String> {
    env::var_os(variable).map(PathBuf::from).ok_or_else(|| format!("cargo did not set {variable}"))
}
