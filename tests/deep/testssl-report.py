"""What testssl.sh found, as Markdown; ends badly for a finding of high or critical weight, or for a scan that found nothing.

Findings that a private authority cannot help are named as such: no public log, no revocation list, not in the stores.
"""

import collections
import json
import sys

PRIVATE = {"cert_chain_of_trust", "cert_caIssuers", "cert_revocation", "DNS_CAArecord", "cert_trust", "scanTime",
           "cert_crlDistributionPoints", "cert_ocspURL", "cert_trust_wildcard", "overall_grade", "OCSP_stapling"}

# Every cipher that is offered is an AEAD with forward secrecy: whichever the client likes best is good.
ACCEPTED = {"cipher_order"}

findings = json.load(open(sys.argv[1], encoding="utf-8"))
weights = collections.Counter(finding["severity"] for finding in findings)
notable = [f for f in findings if f["severity"] not in ("OK", "INFO")]
bad = [f for f in notable if f["severity"] in ("HIGH", "CRITICAL") and f["id"].split(" ")[0] not in PRIVATE | ACCEPTED]

print("testssl.sh: " + ", ".join(f"{count} {weight}" for weight, count in weights.most_common()) + ". Not OK or INFO:\n")
for finding in notable:
    why = " (of a private authority)" if finding["id"].split(" ")[0] in PRIVATE else ""
    why = " (accepted: all ciphers offered are AEADs with forward secrecy)" if finding["id"] in ACCEPTED else why
    print(f"- {finding['severity']} `{finding['id']}`: {finding['finding'][:160]}{why}")
sys.exit(1 if bad or len(findings) < 50 else 0)
