/** Runs common programs on the hub's links. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { sizeOf } from "./files.mjs";
import { Process, must } from "./processes.mjs";
import { until } from "./wait.mjs";

const QUIET = ["-sS", "--fail"];

/** Runs `curl -o FILE LINK`. */
export function curl(link, file, ...more) {
  return must("curl", [...QUIET, "-o", file, ...more, link], { patience: 240_000 });
}

/** Runs curl in the background. `ended` resolves at its end. */
export function startCurl(bench, name, link, file, ...more) {
  return new Process(bench, name, "curl", [...QUIET, "-o", file, ...more, link]);
}

/** Starts a download at a modest rate and ends it after so many bytes. */
export async function curlUntil(bench, link, file, bytes, rate = "8M") {
  const curl = startCurl(bench, "curl-cut", link, file, "--limit-rate", rate);
  await until(`curl has ${bytes} bytes`, () => sizeOf(file) >= bytes);
  await curl.kill9();
  return sizeOf(file);
}

/**
 * Runs the shell loop for bad connections: curl again and again, each time from where it stopped.
 */
export function curlLoop(bench, name, link, file, ...more) {
  const script = 'until curl -sS --fail -C - -o "$1" "${@:3}" "$2"; do sleep 0.2; done';
  return new Process(bench, name, "bash", ["-c", script, "loop", file, link, ...more]);
}

export async function head(link) {
  const response = await fetch(link, { method: "HEAD" });
  return { status: response.status, headers: response.headers };
}

/** Checks that four programs read the archive, byte for byte. */
export async function checkArchive(archive, count) {
  const python =
    "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\nassert z.testzip() is None\nprint(sum(not i.is_dir() for i in z.infolist()))";
  const unzip = await must("unzip", ["-tq", archive]);
  assert.match(unzip.stdout, /No errors detected/);
  const sevenZip = await must("7z", ["t", archive]);
  assert.match(sevenZip.stdout, /Everything is Ok/);
  assert.equal(
    Number((await must("python3", ["-c", python, archive])).stdout),
    count,
    "members as Python sees them",
  );
  const names = (await must("bsdtar", ["-tf", archive])).stdout
    .split("\n")
    .filter((name) => name && !name.endsWith("/"));
  assert.equal(names.length, count, "members as bsdtar sees them");
}

export async function unpack(archive, dir) {
  await must("unzip", ["-q", archive, "-d", dir]);
  return dir;
}

/** Creates a film whose index lies at its end, as cameras write it. */
export async function makeFilm(dir, atLeast) {
  const scene = path.join(dir, "scene.mp4");
  const film = path.join(dir, "Lofoten-4K.mp4");
  const picture = "testsrc2=size=1280x720:rate=25,noise=alls=80:allf=t";
  await must("ffmpeg", [
    "-v",
    "error",
    "-y",
    "-f",
    "lavfi",
    "-i",
    picture,
    "-t",
    "2",
    "-c:v",
    "mpeg4",
    "-q:v",
    "1",
    "-g",
    "25",
    scene,
  ]);
  const times = Math.ceil(atLeast / sizeOf(scene));
  await must("ffmpeg", [
    "-v",
    "error",
    "-y",
    "-stream_loop",
    String(times),
    "-i",
    scene,
    "-c",
    "copy",
    film,
  ]);
  const head = readFileSync(scene).subarray(0, 4096);
  assert.ok(!head.includes("moov"), "the index is at the end");
  return film;
}

export async function ffprobe(link) {
  const { stdout } = await must("ffprobe", [
    "-v",
    "error",
    "-of",
    "json",
    "-show_format",
    "-show_streams",
    link,
  ]);
  return JSON.parse(stdout);
}
