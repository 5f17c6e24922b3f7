"""From the results of all runs to medians, and from these to tables."""
from __future__ import annotations

from core import GIB, MIB, med

NONE = "–"


def summarise(runs: list[dict]) -> dict:
    """The results of one contender, as medians."""
    regions = {name: region_median([r["regions"][name] for r in runs]) for name in runs[0]["regions"]}
    if set(regions) == {"upload", "download"}:
        regions["total"] = region_median([both_ways(r["regions"]) for r in runs])
    ratios = [r["extra"]["owner_upload_ratio"] for r in runs if "owner_upload_ratio" in r["extra"]]
    return dict(regions=regions, peak_rss=role_median(runs, "peak_rss"), idle_rss=role_median(runs, "idle_rss"), procs=runs[0]["procs"],
                owner_upload_ratio=med(ratios) if ratios else None, runs=len(runs))


def both_ways(regions: dict) -> dict:
    """Upload and download as one wait; its payload has arrived once."""
    up, down = regions["upload"], regions["download"]
    return dict(down, wall_s=up["wall_s"] + down["wall_s"], cpu_s=up["cpu_s"] + down["cpu_s"], lo=up["lo"] + down["lo"],
                cpu={role: up["cpu"].get(role, 0) + down["cpu"].get(role, 0) for role in up["cpu"] | down["cpu"]})


def region_median(rs: list[dict]) -> dict:
    walls, payload = [r["wall_s"] for r in rs], rs[0]["payload"]
    cpu = med([r["cpu_s"] for r in rs])
    return dict(wall_s=med(walls), wall_min=min(walls), wall_max=max(walls), payload=payload, mib_s=payload / MIB / med(walls), cpu_s=cpu,
                cpu_s_per_gib=cpu / (payload / GIB) if payload >= MIB else None,
                cpu_roles={role: med([r["cpu"].get(role, 0) for r in rs]) for role in rs[0]["cpu"]},
                lo_ratio=med([r["lo"] for r in rs]) / payload if payload >= MIB else None)


def role_median(runs, key) -> dict:
    return {role: med([r[key].get(role, 0) for r in runs]) for role in sorted({role for r in runs for role in r[key]})}


def number(x, digits=2, unit=1) -> str:
    return f"{x / unit:.{digits}f}" if x else NONE


def lines(columns: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)] + ["| " + " | ".join(row) + " |" for row in rows]


# ---------------------------------------------------------------- transfers
COLUMNS = ["contender", "MiB/s", "x ref", "wall s (min–max)", "CPU s", "CPU s/GiB", "x ref", "CPU s by role", "hub peak RSS MiB", "hub idle MiB",
           "sender peak", "receivers' peak", "loopback bytes / payload", "owner's upload / file"]


def transfers(summaries: dict, ref: str) -> str:
    out = []
    for region in dict.fromkeys(name for s in summaries.values() for name in s["regions"]):
        known = summaries.get(ref, {"regions": {}})["regions"]
        reference = known.get(region) or known.get("download")
        with_it = sorted((n for n in summaries if region in summaries[n]["regions"]), key=lambda n: summaries[n]["regions"][region]["wall_s"])
        out += ["", f"**{region}**", ""] + lines(COLUMNS, [transfer_row(n, summaries[n], region, reference) for n in with_it])
    return "\n".join(out)


def transfer_row(name, summary, region, reference) -> list[str]:
    r, peak, idle = summary["regions"][region], summary["peak_rss"], summary["idle_rss"]
    return [name, f"{r['mib_s']:.0f}", number(r["mib_s"] / reference["mib_s"] if reference else None),
            f"{r['wall_s']:.3f} ({r['wall_min']:.3f}–{r['wall_max']:.3f})", f"{r['cpu_s']:.2f}", number(r["cpu_s_per_gib"]),
            number(r["cpu_s"] / r["payload"] / (reference["cpu_s"] / reference["payload"]) if reference and reference["cpu_s"] else None),
            " ".join(f"{role} {cpu:.2f}" for role, cpu in r["cpu_roles"].items()) or NONE,
            number(peak.get("hub"), 1, MIB), number(idle.get("hub"), 1, MIB), number(peak.get("sender"), 1, MIB), number(peak.get("receiver"), 1, MIB),
            number(r["lo_ratio"]), number(summary["owner_upload_ratio"], 3)]


# ---------------------------------------------------------------- latency and control
def latency(results: dict) -> str:
    rows = []
    for name, runs in results.items():
        for label, kinds in runs[0]["extra"].items():
            for kind in kinds:
                cells = [[r["extra"][label][kind].get(key) for r in runs] for key in ("ttfb_p50", "ttfb_p99", "total_p50")]
                rows.append([name, label, kind] + [NONE if None in xs else f"{med(xs):.2f}" for xs in cells])
    return "\n".join(lines(["contender", "file", "connection", "TTFB p50 ms", "TTFB p99 ms", "complete p50 ms"], rows))


def control(results: dict) -> str:
    columns = ["contender", "clients", "all in after s", "hub idle RSS MiB", "with clients MiB", "KiB per client", "with master", "idle CPU (cores)",
               "broadcast p50 ms", "p99 ms", "last ms", "bare loop p50 / last ms"]
    rows = []
    for name, runs in results.items():
        def of(key, runs=runs):
            return med([r["extra"]["control"][key] for r in runs])
        floors = [r["extra"]["control"]["floor"] for r in runs if "floor" in r["extra"]["control"]]
        bare = f"{med([f['p50_ms'] for f in floors]):.2f} / {med([f['max_ms'] for f in floors]):.2f}" if floors else NONE
        rows.append([name, f"{of('clients'):.0f}", f"{of('connect_s'):.1f}", number(of("idle_rss"), 1, MIB), number(of("loaded_rss"), 1, MIB),
                     f"{of('kib_per_client'):.1f}", f"{of('kib_per_client_all'):.1f}", f"{of('idle_cpu_cores'):.3f}",
                     f"{of('p50_ms'):.2f}", f"{of('p99_ms'):.2f}", f"{of('max_ms'):.2f}", bare])
    return "\n".join(lines(columns, rows))
