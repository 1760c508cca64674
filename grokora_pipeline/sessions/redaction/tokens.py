"""What is secret by its own form: provider keys, private keys, addresses with a password, strings without any order.

Keys that the published rules know at any length and in any context have no pattern here.
"""

import base64
import binascii
import re
from functools import lru_cache, reduce
from hashlib import sha256

from grokora_pipeline.models.messages import MEDIA_DATA, MEDIA_HINT
from grokora_pipeline.sessions.redaction.detector import (
    EXAMPLE,
    NOT_A_SECRET,
    Detector,
    chunk_length,
    detector,
    is_hash,
    is_mixed,
    is_random_short,
    is_random_token,
    is_shuffled,
    is_wordlike,
    looks_random,
    word_share,
)
from grokora_pipeline.sessions.redaction.names import word_set

# beginnings that only keys have, and those that need a random rest to be sure
_SURE = (
    r"AQ\.[A-Z]|ek_|e2b_|dtn_|lin_oauth_|signkey-|snyk_uat\.|mlsn\.|hcaik_|hcxik_|rpa_|pnu_|shippo_|bb_live_|"
    r"tgp_v1_|sk_car_|"
    r"github_pat_|dbtc_|ABSK|APP_USR-|access-(?:production|sandbox|development)-|fio-u-|CFPAT-|duffel_|EZ[AT]K|"
    r"gsk_|r8_|pplx-|nvapi-|do[opr]_v1_|lin_api_|shp(?:at|ca|pa|ss)_|tvly-|ntn_|figd_|dckr_[po]at_|PMAK-|"
    r"NR[A-Z]{2}-|sb[ap]_|"
    r"sb_secret_|LTAI|vcp_|vercel_|pul-|sgp_|sntry[su]_|hv[sbr]\.|tfp_|rubygems_|EAACEdEose0cBA|AT(?:AT|BB|CTT|EG)|AKCp|HRKU-|"
    r"sq0[a-z]{3}-|ph[sx]_|access_token\$production\$|lsv2_[ps][tk]_|wandb_v1_|xkeysib-|gls?[ac]_|CCIPAT_|bkua_|"
    r"cflt|xa[ap]t-|waka_|bedrock-api-key-|sk-let-|mdb_sa_sk_|v[1-4]\.(?:local|public)\.|ATTA[0-9a-f]{8}|WPL_AP[01]\.|"
    r"packagist_[a-z]{3}_|luma-[0-9a-f]{8}-|sec-c-|amzn\.mws\.|amzn1\.oa2-cs\.v1\.|FLWSECK-|"
    r"nfp_|FlyV1 |fm[12][a-z]?_|dp\.(?:st|pt|ct|sa)\.|AGE-SECRET-KEY-|jina_|csk-|CLOJARS_|sq[apu]_|pat-(?:na|eu)\d-|"
    r"dG9rO|pk_\d{6,10}_|s-s4t2(?:ud|af)-|esecret_|flb_(?:live|test)_|VF\.(?:DM|WS)\.|persona_(?:production|sandbox)_|"
    r"sdk-[0-9a-f]{8}-|1//0|v1\.0-[0-9a-f]{24}-|hf_oauth_|cfut_|pscale_[a-z]+_|pco_[a-z]+_|AQVN|dt0[a-z]\d\d\.|rdme_|tskey-|TlRMTVNTUAAD|fmu1-|AVNS_|nsec1|"
    r"1PRK-|endr\+|api_(?:live|sandbox)(?:_(?:us|ca|eu))?\."
)
_LIKELY = (
    r"key-|dapi|secret_|re_|fc-|pa-|sk_|pat[-_.]|pat\w{14}\.|EAA|ops_|rnd_|AKID|cio|oy2|p8e-|sl\.|oauth:|nl_|ak_|"
    r"tk_|aio_|napi_|api-|live_|"
    r"prod_|API-|ark-|ctx7sk-|nfk_|fw_|y0_"
)
_CHOSEN_OFTEN = (
    r"[Pp](?:[@4][s5$]{2}w[o0]rd|a(?:[s5$]{2}w0rd|s[5$]word|[5$][s5$]word))[0-9]{0,6}|"
    r"(?:[Pp]assword|[Qq]werty)[0-9]{3,6}|[Ll]etmein[0-9]{1,6}"
)
_PASSED = r"[^\s/@\"'<>]{1,200}"  # the password of a URL


def _is_not_placeholder(match: re.Match[str]) -> bool:
    return not NOT_A_SECRET.fullmatch(match["value"]) and match["value"] not in {"password", "passwd", "pass", "pwd"}


def _is_random_body(text: str) -> bool:
    """Whether what stands behind a prefix, or ends an address, is a key and no words with a number."""
    return is_mixed(text) and (is_hash(text) or chunk_length(text) <= 3.2 or not is_wordlike(text))


def _is_prefixed(match: re.Match[str]) -> bool:
    """A form with parts, behind a name that is no id's and no hash's."""
    text = match.group()
    public = (
        is_known_id(text)
        or is_publishable(text)
        or re.search(r"(?i)(?:id|uuid|hash|trace|span|session|cache|idempotency|public)[-_.]", text)
    )
    dotted = match.group("dotted")
    return not public and (dotted is None or _is_random_body(dotted))


_KNOWN_ID = re.compile(  # the ids of calls, messages, objects of an API, parts of a cloud; and hashes with their name
    r"(?:call|chatcmpl|(?:srv)?toolu|tooluse|msg|msgbatch|ftjob|vs(?=_)|dpl(?=_)|cs_(?:test|live)|PAYID|payid|pack|req|run|thread|asst|file|resp|fc(?=_)|rs|step|cmpl|batch|item|evt|sha\d+|"
    r"md5|gen|"
    r"price|prod_[A-Za-z0-9]{14}\Z|cus|sub|si|pi|ch|in|txn|acct|pm|seti|src|inv|ord|order|doc|page|img|usr|user|org|"
    r"proj|"
    r"project|team|chat|conv|conversation|job|task|trace|span|session|sess|node|vol|vpc|subnet|ami|sg|snap|eni|rtb|igw|GHSA|"
    r"i|rev|commit|build|ref|uid|uuid|id|hash|etag|chunk|vendor|index|main|app|page|blob|tree|object|tmp|part|data-v)[_-]"
)
_STYLE = re.compile(r"[A-Za-z]+_[A-Za-z]+__[\w-]{5,8}")  # of a module of CSS
_SUM_BEFORE = re.compile(r"sha\d+[=-]\Z")
_PUBLISHABLE = re.compile(
    r"pk[_-](?:live|test|lf)[_-]|(?:pub|public|publishable)[_-]|sb_publishable_|FLWPUBK|phc_|pk\.eyJ"
)
_LONGEST_KEY = 4096  # characters: of a private key in Base64; a longer string is a file
_RUN = r"[A-Za-z0-9_-]{20,}|[A-Za-z0-9+/]{40,}={0,2}"
_BODY = r"(?P<body>[a-f0-9]{32,}|[a-z0-9]{24,}(?:[-_][a-z0-9]{24,})*|[A-Z0-9]{24,})"
_PREFIXED = re.compile(  # a short name, a separator, and a body of one alphabet
    r"(?=[a-z0-9_]{0,10}[a-z])[A-Za-z][A-Za-z0-9]{1,9}(?:[_-](?:live|test|prod|production|dev|oauth|api|key|sk|at|"
    r"rt|pat|v\d))*"
    rf"[_-]{_BODY}"
)
_INITIAL = re.compile(r"[a-z]_(?=[a-f0-9]{0,40}[g-z])(?P<body>[a-z0-9]{32,})")  # one letter, and no hash behind it
# the same without a separator
_GLUED = re.compile(r"(?:[a-z]{1,8}[g-z][a-z]{0,3}|[A-Z]{2,6})(?P<body>[a-f0-9]{32,})")
PUBLIC = re.compile(  # what looks random and is for everybody: public keys, certificates, checksums, ids in addresses
    r"-----BEGIN (?:[A-Z0-9 ]{0,30}PUBLIC KEY(?: BLOCK)?|CERTIFICATE[A-Z ]{0,20}|(?:PGP|SSH) SIGNATURE|X509 CRL)-----"
    r"[^-]{0,20000}(?:-----END|\Z)|"
    r"(?m:^)(?:[\w+/=]{4,76}\r?\n){1,400}-----END (?:[A-Z0-9 ]{0,30}PUBLIC KEY|CERTIFICATE)|"  # the end of one
    r"(?:ssh-(?:rsa|dss|ed25519)(?:-cert-[\w@.]{1,20})?|ecdsa-sha2-[\w@.-]{1,40}|"
    r"sk-(?:ssh|ecdsa)-[\w@.-]{1,40}) AAAA[\w+/=]{20,}|"
    r"AAAA[A-Z]\w(?:NzaC1|VjZHNhLXNo)[\w+/=]{20,}|\bAGFzbQEAAAA[\w+/=]+|"
    r"(?i:sha-?(?:1|224|256|384|512)|md5|blake\w{1,4})(?:[:=-]|: |=[\"']|[\"']: ?[\"'])[\w+/=-]{16,}|\bh1:[\w+/]{43}=|"
    r"\bQm[1-9A-HJ-NP-Za-km-z]{44}\b|\bbaf[yk][a-z2-7]{50,}|\bdid:[a-z]{2,9}:[\w.:%-]+|"
    r"(?i:sitekey|site_key|site-key|public[_ -]?key|pubkey\d*|nonce|integrity|etag|if-(?:none-)?match|fingerprint|"
    r"checksum|boundary|"
    r"x-amz-id-2|encrypted_content|(?:thought|"
    r"thinking)_?signature)\\{0,3}[\"'`]?\s?[:=]\s?\\{0,3}[\"'`]?[\w+/:=-]{16,}|"
    r"(?i:(?<![A-Za-z])(?:_?id|_rev|(?:click)?trackingparams|client_?id|[a-z_]{0,12}uuid|(?:start|end|next|prev\w*)?_?(?:cursor|marker)|(?:next_?)?(?:page|next|continuation|sync|resume)_?token|kid|"
    r"x5t)\\{0,3}[\"'`]?\s{0,40}[:=]\s{0,8}\\{0,3}[\"'`]?[\w+/=-]{8,80}\b)|"
    # any id by its name, but for those that let one in
    r"(?:[a-z](?<!session)(?<!secret)(?<!access)(?<!token)(?<!auth)(?<!api)(?:Id|_id|Identifier|Revision)|"
    r"[A-Z](?<!SESSION)(?<!SECRET)(?<!ACCESS)(?<!TOKEN)_ID)"
    r"\\{0,3}[\"'`]?\s?[:=]\s?\\{0,3}[\"'`]?[\w+/=.-]{8,200}\b|"
    r"--(?:[a-z-]{0,40}[a-z](?<!session)(?<!secret)(?<!access)(?<!key)(?<!token)(?<!auth)(?<!api)-)?"
    r"(?:ids?|identifier|arn)[ =]\s?[\"']?[\w.-]{8,}|"
    # of DNS, in a package's description, a cache, Vault, the kernel; a hash; a signature in DER
    r"; COOKIE: [0-9a-f]{16,}|\bSPDXRef-[\w.-]+|"
    r"(?i:\bcache\b[^\n]{0,40}?\b(?:key|at|to):? (?:[a-z][\w.]{0,20}-){2}[\w+/=-]{16,})|"
    r"(?i:(?<![A-Za-z])accessor)[\"']?(?:\s?[:=]\s{0,40}|\s{2,40})[\"']?[\w.]{16,40}\b|"
    r"(?<!password )\bhash\s{0,8}: ?[\w+/]{16,}={0,2}|"
    r"X\.509 cert '[^'\n]{1,120}'|\bME[QUY]CI[\w+/]{86,92}={0,2}|"
    r"\b(?i:signing_?key|[gp][gp]g_?key)[=: ]{1,3}[0-9A-F]{8,40}\b|\bRW[A-Za-z0-9+/]{54}(?![A-Za-z0-9+/=])|"
    r"\b_(?:Z[A-Z0-9]|RI?N[a-z])\w{8,}|"  # minisign, C++, Rust
    # of a page's scripts, of ssh's known hosts; a font, a sound; the signature of a model's thoughts
    r"\bnonce-[\w+/=-]{16,}|\|1\|[\w+/=]{20,}\|[\w+/=]{20,}|data:\w{4,11}/[\w.+-]+;base64,[\w+/=%]+|"
    r"\bsignature\\{0,3}[\"']\s?:\s?\\{0,3}[\"'][\w+/-]{200,}={0,2}\\{0,3}[\"']|"
    r"\bpk\.eyJ[\w.-]+|\barn:aws[\w:/+=,.@*-]+|(?<![\w-])-[MNO][\w-]{18}(?![\w-])|"
    r"[\"'](?:n[\"']\s?:\s?[\"'][\w-]{170,}|[xy][\"']\s?:\s?[\"'][\w-]{43,88}[\"'])|"  # of a public key
    r"(?:gpg: |\b(?:RSA|DSA|EDDSA|ECDSA) )key (?:ID )?(?:0x)?[0-9A-F]{8,40}|"
    # in DER a public key; a sequence that begins with a sequence: a certificate
    r"\bMI(?:GfMA0GCSqGSIb3DQEBAQUAA4|IBIjANBgkqhkiG9w0BAQEFAAOCAQ8A|ICIjANBgkqhkiG9w0BAQEFAAOCAg8A|"
    r"[IJKL][\w+/]{2}[DTjz]CC)(?:[\w+/=]{16,}(?:\\n|\s){0,3})+|\bM(?:FkwEwYHKoZIzj0CAQYI|CowBQYDK2V)[\w+/=]{30,}|"
    r"(?i:\b(?:message-id|in-reply-to): ?<[^>\s]+)|"
    # what servers of mail sign and note; places on a map, and their pictures
    r";\s{0,8}bh?=[\w+/]{20,}={0,2}|(?i:\bx-(?:gm|google)-[\w-]{3,40}: ?[\w+/=-]{16,})|"
    r"\b(?:ChIJ[\w-]{23}|AF1Qip[\w-]{38})\b|"
    r"\b(?:rsa|dsa|elg|ed|cv|nistp)\d{3,5}/(?:0x)?[0-9A-F]{8,40}|[?&]list=[\w-]{12,}|"
    r"\bspotify:\w+:\w+|/(?:track|album|artist|playlist|d|file|folders|spreadsheets|document|blob|commit|tree|store|ipfs)/[\w/-]{16,}|"
    r"ipfs://\w+|"
    # what a site is proved to be whose by, keys of a zone, the digest of a document, the other end of WireGuard
    r"\b(?:[a-z]+-)?(?:site|domain)-verification=[\w-]{16,}|\b(?:C?DNSKEY(?:\s\d+){3}|RRSIG\s\w+(?:\s\d+){6}\s[\w.-]+)\s[\w+/=]{16,}|"
    r"\bTXT\s+\\?\"[^\"\n]{1,255}\"|"
    r"\bIV\\{0,3}[\"']?\s?[:=]\s?\\{0,3}[\"']?(?:0x)?[0-9A-Fa-f]{24,32}\b|"
    r"<(?:\w+:)?(?:DigestValue|SignatureValue|X509Certificate|Modulus)>[\w+/=\s]{16,}|\bpeer: [\w+/]{43}=|"
    r"(?i:sec-websocket-(?:key|accept): ?[\w+/]{20,}=)|"
    # a search and where it leads, clicks of an advertisement
    r"\bgoogle\.[a-z.]{2,6}/(?:search|url|imgres|aclk)\?[^\s\"'<>]+|\bbing\.com/(?:search|ck/a)\?[^\s\"'<>]+|"
    r"[?&;](?:[a-z]{0,3}cl(?:k)?id|[gw]braid|igshid|mibextid|ixid|_hs(?:enc|mi)|mc_[ce]id|dib|ved|ei|sca_esv|sxsrf|gs_lp|utm_\w+)=[\w.-]+"
)
_HASHED = re.compile(
    r"([A-Za-z][\w.]*-(?:\w[\w.]*-)+)(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})"
)  # Linux-node-0a1b2c...
_OBJECT = re.compile(r"[a-z]{2,12}_01[A-Za-z0-9]{22}")  # of Anthropic's API, whose keys begin otherwise
_SID = re.compile(r"(?!SK)[A-Z]{2}[0-9a-f]{32}")  # of a message, a call; SK is of a key


def is_known_id(text: str) -> bool:
    """Whether a string is the id of a call, a message, an object or a style, as every recording has them.

    No such id has a random part of forty characters in both cases. Nor is the key of a cache one, which ends in a hash.
    """
    if (
        _SID.fullmatch(text)
        or _OBJECT.fullmatch(text)
        or ("-" in text and not _ID_WORDS.isdisjoint(text.lower().split("-")) and is_hash(text.rpartition("-")[2]))
    ):
        return True
    named = _KNOWN_ID.match(text)
    body = text[named.end() :] if named else ""
    return bool(_STYLE.fullmatch(text)) or (bool(named) and not (len(body) >= 40 and is_random_token(body)))


def is_publishable(text: str) -> bool:
    """Whether a key says of itself that it is the public one of a pair."""
    return bool(_PUBLISHABLE.match(text))


def is_address(text: str) -> bool:
    """Whether a string is a wallet's address: 25 bytes in Base58, of which the last four are the check, or in Bech32.

    In Base58 the check is the beginning of a double SHA-256.
    """
    if re.fullmatch(r"0x[0-9a-fA-F]{40}|(?:bc|tb|ltc|addr|cosmos|osmo|age)1[02-9ac-hj-np-z]{30,}", text):
        return True
    if not re.fullmatch(r"[1-9A-HJ-NP-Za-km-z]{26,35}", text):
        return False
    raw = reduce(lambda value, char: 58 * value + _BASE58.index(char), text, 0).to_bytes(27, "big")[2:]
    return sha256(sha256(raw[:21]).digest()).digest()[:4] == raw[21:]


_BECH32 = re.compile(r"[a-z]{1,12}1[02-9ac-hj-np-z]{30,}|0x[0-9a-f]+")  # addresses of wallets, public keys of age


_SHAPE = re.compile(r"(?<![A-Za-z0-9])[a-z0-9]{8}(?:-[a-z0-9]{4}){3}-[a-z0-9]{12}(?![A-Za-z0-9])")  # of a UUID
_C_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}[uUlL]{1,3}")


def _is_cached(text: str) -> bool:
    """Whether words and a hash name what a cache holds: `Linux-node-0a1b2c...`, with no word of the names of keys."""
    named = _HASHED.fullmatch(text)
    return named is not None and _KEY_WORDS.isdisjoint(named[1].lower().split("-"))


_BEYOND_HEX = frozenset("ghijklmnopqrstuvwxyzGHIJKLMNOPQRSTUVWXYZ")


def _is_parted(text: str) -> bool:
    """Whether a run of one case that dashes part is a key as a whole: no name with a UUID, no id behind a number."""
    parts, letters = re.split("[-_]", text), sum(map(str.isalpha, text))
    return (
        len(text) >= 32
        and max(map(len, parts)) >= 10
        and not (parts[0].isdigit() and len(parts[0]) > 5)
        and is_shuffled("".join(parts))
        and sum(char in _BEYOND_HEX for char in text) >= 0.45 * letters
        and word_share(text) <= 0.2
    )


def is_high_entropy(text: str, limit: float = 2.75) -> bool:
    """Whether a run of characters is a token of a kind that nobody listed."""
    if is_known_id(text) or is_publishable(text) or is_address(text) or _C_NUMBER.fullmatch(text):
        return False
    if EXAMPLE.search(text) or _is_cached(text):
        return False
    # of one case: a hash is no key, and no id of time (ULID) is as long
    shortest = 24 if text.isupper() and not _TIMED.fullmatch(text) else 28
    one_case = text.islower() or text.isupper()
    one_case = one_case and len(text) >= shortest and not (is_hash(text) or _BECH32.fullmatch(text))
    if is_random_token(text, limit) or (
        one_case and (_is_parted(text) if re.search("[-_]", text) else is_shuffled(text) and len(set(text)) >= 12)
    ):
        return True
    shaped = _SHAPE.search(text)  # a UUID has no letter beyond f
    if shaped and not is_hash(shaped[0]) and len(set(shaped[0])) >= 12 and len(re.findall("[0-9]+", shaped[0])) >= 4:
        return True
    letters = re.sub("[_-]", "", text)
    if len(letters) >= 28 and letters.isalpha() and not (letters.islower() or letters.isupper()):
        return chunk_length(letters) <= limit and not is_wordlike(letters) and word_share(letters) <= 0.3
    match = _PREFIXED.fullmatch(text) or _GLUED.fullmatch(text) or _INITIAL.fullmatch(text)
    if not match:
        return False
    body = match.group("body")
    random = is_hash(body) or (not is_wordlike(body) and chunk_length(body) <= 4)
    return random and is_mixed(body) and len(set(body)) >= 8


# words in the names of keys; ids and hashes have none of them
_KEY_WORDS = word_set(
    "key apikey token tok secret sec sk rk pat live auth access refresh oauth priv private personal svcacct sa bot "
    "machine admin rt at rw ro api prod production test staging stage stg sandbox dev deploy agent service srv svc ci "
    "ws wh hook webhook"
)
# words in the names of what is no secret, whatever stands behind them
_ID_WORDS = word_set(
    "id ids uuid guid hash sha sha1 sha256 md5 digest checksum etag trace span session cache idempotency public pub "
    "commit diff rev revision build image layer chunk bundle index vendor snapshot backup request req event sitekey "
    "version"
)
_LABEL = re.compile(r"[A-Za-z0-9]{1,14}[_.~-]{1,2}")
_NAME = re.compile(r"[a-z]{1,14}\d?|[A-Z]{1,14}\d?|[A-Z]?[a-z]{1,10}[A-Z]?[a-z]{1,10}\d?")
_TIMED = re.compile(r"c[a-z0-9]{24}|[01][0-9A-Za-z]{25}")  # CUID, ULID
_GROUPS = re.compile(r"[a-z0-9]{6,}(?:-[a-z0-9]{6,}){2,5}|[A-Z0-9]{5}(?:-[A-Z0-9]{5}){3,5}")
_PADDED = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_MOST_LABELS = 5
_ENTITIES = word_set("agent bot service machine server")
_UUID = [8, 4, 4, 4, 12]  # characters of its parts


@lru_cache(maxsize=8192)  # paths and names come again and again
def is_labelled(text: str) -> bool:
    """Whether a string is a key behind a name that nobody listed: `acme_live_...`, `zk-prod-...`, `vx1.....`.

    What stands behind the name, its kind and its environment is looked at by itself, hence a long name hides no key.
    """
    if len(text) < 20 or is_publishable(text) or EXAMPLE.search(text) or _is_cached(text):
        return False
    labels: list[str] = []
    rest = text
    while len(labels) < _MOST_LABELS and (match := _LABEL.match(rest)) and len(rest) - match.end() >= 16:
        labels.append(match.group().rstrip("_.~-"))
        rest = rest[match.end() :]
        words = [label.lower() for label in labels]
        if not _ID_WORDS.isdisjoint(words):
            return False
        telling = not _KEY_WORDS.isdisjoint(words) or any(word.endswith("key") for word in words)
        if is_known_id(text.lower()) and (len(labels) < 2 or not telling):
            continue
        if _is_labelled_body(rest, labels, telling):
            return True
    # two long parts and no words: of no program and no file
    return len(text) >= 36 and "/" not in text and text.count(".") == 1 and is_random_token(text, 2.4)


def _is_labelled_body(body: str, labels: list[str], telling: bool) -> bool:
    """Whether the rest of a string behind its labels is a key; `telling`: a label is a word of the names of keys."""
    # a label behind the first may be a part of the key
    named = labels[0][0].isalpha() and all(
        _NAME.fullmatch(label) or label.isdigit() or (at and len(label) >= 4 and is_mixed(label))
        for at, label in enumerate(labels)
    )
    whole = re.sub(r"(?<=[A-Za-z0-9]{12})_[A-Za-z0-9]{4,10}\Z|(?<=[0-9a-f]{32})v\d\Z", "", body)  # without check digits
    parts = whole.split(".") if "." in whole else whole.split("-")
    letters = re.sub("[_-]", "", whole)
    if letters.isalpha() and not (letters.islower() or letters.isupper()):
        random = len(letters) >= 18 and chunk_length(whole) <= 2.75 and not is_wordlike(whole)
        return random and (telling or labels[0].isupper())
    if not whole.isalnum():
        lengths = list(map(len, parts))
        if named and is_hash(whole.replace(".", "")):
            telling = telling and not {label.lower() for label in labels} <= _ENTITIES  # the id of an agent
            return (telling and (lengths in (_UUID, 2 * _UUID) or min(lengths) >= 24)) or (
                "." in whole and min(lengths) >= 32
            )
        if named and _GROUPS.fullmatch(whole) and len(set(lengths)) == 1:
            joined = "".join(parts)
            return is_mixed(joined) and is_shuffled(joined)
        if telling and whole.replace("-", "").isalnum() and all(_is_one_case_key(part, True) for part in parts):
            return is_mixed(whole)
        if "." in whole:
            return min(lengths) >= 16 and all(is_random_token(part, 3.2) for part in parts)
        padded = whole.rstrip("=")
        long = 40 if "/" in padded or "+" in padded else 20 if telling else 32
        return len(padded) >= long and bool(_PADDED.fullmatch(whole)) and is_random_token(whole, 3.2)
    if not (named and is_mixed(whole)):
        return len(whole) >= 32 and is_random_token(whole, 3.2)
    if is_hash(whole):
        names = [label for label in labels if not re.fullmatch(r"v?\d+|(?=.{6})[a-f]*\d[0-9a-f]*", label)]
        plain = len(names) == 1 and len(names[0]) > 1 and (names[0].islower() or names[0].isupper())  # no Page-...
        return len(set(whole)) >= 6 and len(whole) >= (20 if telling else 28) and (telling or plain)
    if whole.islower() or whole.isupper():
        return _is_one_case_key(whole, telling)
    return is_random_token(whole, 3.0)


def _is_one_case_key(text: str, telling: bool) -> bool:
    """The same for a part of small letters and digits, or of capitals and digits."""
    if (_TIMED.fullmatch(text) and not telling) or len(text) < (16 if telling else 20) or len(set(text)) < 9:
        return False
    shuffled = is_shuffled(text) and not (is_wordlike(text) and chunk_length(text) > 2)
    return shuffled or (len(text) >= 24 and len(set(text)) >= 12 and not is_wordlike(text))


_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_FROM_URLS = str.maketrans("-_", "+/")


def from_base64(text: str) -> str | None:
    """The readable text that a string holds in Base64; None if it holds none."""
    plain = "".join(text.split()).rstrip("=").translate(_FROM_URLS)
    try:
        decoded = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return decoded if all(char.isprintable() or char in "\n\r\t" for char in decoded) else None


SCREENSHOT = detector("screenshot", MEDIA_DATA, MEDIA_HINT, family="")
PRIVATE_KEY = detector(
    "private_key",
    r"-----BEGIN (?:[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?|OpenVPN Static key V1)-----"
    r"(?=(?:(?!-----END).){0,300}?[A-Za-z0-9+/=]{16})"
    r"(?:.{0,20000}?-----END (?:[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?|OpenVPN Static key V1)-----|"
    # whose end was cut off: its lines, each behind whatever margin
    r"(?:(?:\s|\\[nr]|[^\w/+=]|\d{1,6}[|:\t\u2192-]){1,40}(?:[A-Z][\w-]{2,20}: [^\n\\]{1,80}|[A-Za-z0-9+/=]{16,}))+"
    r"(?:(?:\s|\\[nr]){1,8}[A-Za-z0-9+/=]{1,15})?)|"
    r"PuTTY-User-Key-File-\d.*",
    r"-----BEGIN (?:[A-Z0-9 ]*PRIVATE|OpenVPN)|PuTTY-User-Key",
    flags=re.DOTALL,
)
_KEY_END = detector(  # the last lines of a key whose beginning is not in the text
    "private_key",
    r"(?<![A-Za-z0-9+/=])(?:[A-Za-z0-9+/=]{16,80}\s{1,8}){1,80}-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----",
    r"-----END [A-Z0-9 ]*PRIVATE",
)
_AWS_ID = r"(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"
_AWS_PAIR = detector(
    "aws_key",
    rf"{_AWS_ID}\b"
    r"[^A-Za-z0-9/+]{1,8}(?:[^\n]{0,80}?[^A-Za-z0-9/+])??(?P<value>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
    _AWS_ID,
    "value",
    accept=lambda match: is_random_token(match["value"], 3.5),
    anchored=True,
)
_TWILIO_PAIR = detector(
    "twilio_key",
    r"AC[0-9a-f]{32}\W{1,6}(?P<value>[0-9a-f]{32})(?![0-9a-f])",
    r"AC[0-9a-f]{32}\W{1,6}[0-9a-f]{32}",
    "value",
    gate=r"(?:AC|SK)[a-z0-9]{32}",
    anchored=True,
)
_TOKENS = (
    # bounded: to look from each "eyJ" to the end of the run takes quadratic time
    detector("jwt", r"(?<![A-Za-z0-9])eyJ(?!2IjoiMSJ9\.)[\w=-]{4,2000}\.[\w=-]+\.?[\w.+/=-]*", r"eyJ[\w=-]{4}"),
    detector("aws_key", rf"\b{_AWS_ID}\b", _AWS_ID),
    # also behind the %3D of an address, where a published rule sees no beginning
    detector("discord_token", r"[MNO][\w-]{22,27}\.[\w-]{6,7}\.[\w-]{27,38}(?![\w-])", r"\.[\w-]{6,7}\.[\w-]{27}"),
    detector("anthropic_key", r"sk-ant-[\w-]{12,}", r"sk-ant-"),
    detector("stripe_key", r"\b(?:[rs]k_(?:live|test)_[\w-]{12,}|whsec_[\w+/=-]{12,})", r"[rs]k_(?:live|test)_|whsec_"),
    detector("openai_key", r"(?<![\w-])sk-(?!ssh-|ecdsa-)(?:[a-z]+-)?[\w-]{16,}", r"sk-[\w-]{16}"),
    detector("xai_key", r"(?<![\w-])xai-[\w-]{12,}", r"xai-[\w-]{12}"),
    detector("pinecone_key", r"\bpc(?:sk|local)_[\w-]{12,}", r"pc(?:sk|local)_"),
    detector("hf_token", r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}", r"(?:hf|api_org)_[A-Za-z0-9]{16}"),
    detector(
        "github_token", r"\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{20,})", r"gh[pousr]_[A-Za-z0-9]|github_pat_"
    ),
    detector("google_key", r"\bAIza[\w-]{30,}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}", r"AIza|ya29\.|GOCSPX-"),
    detector("slack_token", r"\bxox[a-z](?:\.xox[a-z])?-[\w%-]{10,}|\bxapp-\d-[\w-]{10,}", r"xox[a-z]|xapp-"),
    detector(
        "provider_key",
        rf"(?<![A-Za-z0-9])(?:{_SURE})[\w+/=%$.~-]{{17,}}[\w+/=-]",
        rf"(?:{_SURE})[\w+/=%$.~-]{{18}}",
        accept=lambda match: not re.search(r"/[\w.-]+\.[a-z]{1,4}\Z", match.group()),  # models/jina_v3/modular_x.py
    ),
    detector(  # short ones need a random rest, too
        "provider_key",
        rf"(?<![A-Za-z0-9])(?:{_SURE})(?P<rest>[\w-]{{12,17}})(?![\w-])",
        rf"(?:{_SURE})[\w-]{{12}}",
        accept=lambda match: is_random_short(match["rest"]),
    ),
    detector(
        "provider_key",
        rf"(?<![A-Za-z0-9_-])(?:{_LIKELY})(?P<rest>[\w.-]{{17,}}\w)",
        rf"(?:{_LIKELY})[\w.-]{{18}}",
        accept=lambda match: (
            _is_random_body(match["rest"])
            and sum(map(str.isdigit, match["rest"])) >= 2
            and len(max(re.split(r"\W|_", match["rest"]), key=len)) >= 11  # no name of several words
            and not _SUM_BEFORE.search(match.string, max(0, match.start() - 8), match.start())
        ),
    ),
    detector(
        "provider_key",  # Mailgun, Asana, Azure, Zhipu, Terraform, Salesforce, X, Yandex,
        # New Relic, Jenkins, Klaviyo, Dagster, PagerDuty, Bitwarden, fal
        r"(?<![\w-])(?:[0-9a-f]{36}FFFFNRAL|11[0-9a-f]{32}|pk_[0-9a-f]{34}|(?:user|agent:[\w-]{1,40}):[0-9a-f]{32}|"
        r"u\+[\w-]{18}|[0-9a-f]{24}:[0-9a-f]{64}|[0-9a-f]{32}-us\d{1,2}|"
        r"0\.[0-9a-f]{8}-[0-9a-f-]{27}\.[A-Za-z0-9]{30}:[A-Za-z0-9+/]{22}==|"
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
        r"(?::(?:[0-9a-f]{32}|fx\b|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})|<__>\w{16,64})|"
        r"100\d(?:\.[0-9a-f]{32}){2}|private_[A-Za-z0-9+/]{27}=|"
        r"[0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8}|(?<![/.])[0-2]/(?:\d{12,16}(?:/\d{16})?:)?[0-9a-f]{32}|"
        r"[\w~.]{3}\dQ~[\w~.-]{31,34}|[0-9a-f]{32}\.(?=[\w-]{0,30}[A-Z])(?=[\w-]{0,30}\d)[\w-]{16,32}|"
        r"xx[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[A-Za-z0-9]{14}\.atlasv1\.[\w-]{60,}|"
        r"00D\w{12,15}![\w.]{60,}|K10[0-9a-f]{64}::\w+:[0-9a-f]{32}|EXO[0-9a-f]{24}|DO00[A-Z0-9]{16}|SCW[A-Z0-9]{17}|"
        r"\d{8,10}:A(?=[\w-]{0,30}\d)[\w-]{33,35}|akab-[a-z0-9]{16}-[a-z0-9]{16}|(?:PRD|SBX)-[0-9a-f]{12}(?:-[0-9a-f]{4}){4}|AstraCS:[A-Za-z0-9]{24}:[0-9a-f]{64}|"
        r"brd-customer-\w+-zone-\w+:\w{8,}|"
        r"_\|WARNING:-[^|\s]{20,200}\|_[0-9A-F]{100,}|sess-[A-Za-z0-9]{40}|app-(?=[A-Za-z]{0,20}\d)(?=[a-z0-9]{0,20}[A-Z])[A-Za-z0-9]{24}|"
        r"[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{20,40}|"
        r"A{15,40}[\w%]{60,300}|[a-z0-9]{11}A{10}[\w=-]{40,}|t1\.[\w-]{60,}\.[\w-]{60,})(?![\w-])",
        r"FFFFNRAL|11[0-9a-f]{32}|pk_[0-9a-f]{34}|(?:user|agent:[\w-]+):[0-9a-f]{32}|u\+[\w-]{18}|"
        r"[0-9a-f]{24}:[0-9a-f]{64}|[0-9a-f]{32}-us[0-9]|"
        r"\.[A-Za-z0-9]{30}:[A-Za-z0-9+/]{22}==|-[0-9a-f]{12}(?::(?:[0-9a-f]{32}|fx\b|[0-9a-f]{8}-)|<__>)|"
        r"100[0-9]\.[0-9a-f]{32}|private_[A-Za-z0-9+/]{27}=|"
        r"DO00[A-Z0-9]{16}|SCW[A-Z0-9]{17}|[0-9]:A[\w-]{33}|akab-|(?:PRD|SBX)-[0-9a-f]{12}|AstraCS:|brd-customer-|_\|WARNING:-|"
        r"K10[0-9a-f]{64}|EXO[0-9a-f]{24}|sess-[A-Za-z0-9]{40}|app-[A-Za-z0-9]{24}|JQQJ99|[0-9a-f]{32}-[0-9a-f]{8}-|[0-2]/(?:[0-9]{12}|[0-9a-f]{32})|"
        r"[0-9]Q~|[0-9a-f]{32}\.[\w-]{16}|xx[0-9a-f]{8}-|\.atlasv1\.|00D\w{12,15}!|"
        r"A{10}|t1\.[\w-]{60}",
    ),
    detector(  # a name, an environment, and a UUID or parts of hexadecimal digits: access-production-..., st.x.x
        "provider_key",
        r"(?<![\w.-])[A-Za-z][A-Za-z_]{1,12}[-_]"
        r"(?P<rest>(?:production|prod|live|test|sandbox|development|dev|key|token|secret|pat|sk|"
        r"api)[-_][0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{16}-\d{6}-[0-9a-f]{32}[\w-]{0,16})(?![\w-])|"
        r"(?<![\w.+-])[a-z][A-Za-z0-9_]{1,14}\.[\w-]{0,20}?\.?(?P<dotted>[0-9a-f]{32,}(?:\.[0-9a-f]{24,})?|"
        r"[0-9a-f]{24}\.[0-9a-f]{32}\.[0-9a-f]{32}|(?=\w{0,30}[A-Z])(?=\w{0,30}\d)\w{36,}|"
        r"(?=[\w-]{0,30}[A-Z])(?=[\w-]{0,30}\d)[\w-]{18,40}\.[\w-]{18,60})(?![\w-])",
        r"[\w-]{18}\.[\w-]{18}|[-_][0-9a-f]{8}-[0-9a-f]{4}-|-[0-9]{16}-[0-9]{6}-|\.(?:[0-9a-f]{32}|\w{36})",
        accept=_is_prefixed,
    ),
    detector(  # of kubeadm
        "provider_key",
        r"(?<![\w.-])[a-z0-9]{6}\.(?P<rest>[a-z0-9]{16})(?![\w.-])",
        r"[a-z0-9]{6}\.[a-z0-9]{16}",
        accept=lambda match: is_mixed(match["rest"]) and is_shuffled(match["rest"]) and not is_hash(match[0][:6]),
    ),
    detector(  # acme_live:x, bot-acme:x, acme+robot:x
        "provider_key",
        r"(?<![\w/.:@-])(?P<name>[A-Za-z][A-Za-z0-9]{0,14}(?:[_+-][A-Za-z0-9]{1,10}){1,3}):(?P<body>[\w-]{20,})(?![\w:/@.-])",
        r"[_+-][A-Za-z0-9]{1,10}:[\w-]{20}",
        accept=lambda match: (
            _ID_WORDS.isdisjoint(words := re.split("[_+-]", match["name"].lower()))
            and _is_labelled_body(
                match["body"], words, telling="+" in match["name"] or not _KEY_WORDS.isdisjoint(words)
            )
        ),
    ),
    detector(
        "webhook",
        r"(?:discord(?:app)?\.com/api/webhooks/\d+|webhook\.office\.com/webhookb2|"
        r"outlook\.office(?:365)?\.com/webhook|hooks\.zapier\.com/hooks/catch|"
        r"hooks\.slack(?:-gov)?\.com/\w+)/"
        r"(?P<value>[\w@/-]{12,})",
        r"/api/webhooks/[0-9]|webhook\.office\.com|outlook\.office|hooks\.zapier\.com|hooks\.slack",
        "value",
    ),
    detector(  # whoever knows the address of a hook may call it, whosever hook it is
        "webhook",
        r"://(?:[^\s/\"'<>]{0,80}hook[^\s/\"'<>]{0,80}/|[^\s\"'<>]{1,160}/(?:web)?hooks?/)(?:[\w-]{1,40}/){0,4}?"
        r"(?P<value>[A-Za-z0-9_-]{16,})(?![\w-])",
        r"://[^\s\"'<>]{0,240}hook",
        "value",
        accept=lambda match: _is_random_body(match["value"]),  # a page about hooks ends in words
        gate=r"hook",
    ),
    detector(  # Azure's keys carry the name of their service at a fixed place
        "azure_key",
        r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{36,}(?:AStA?|ACDb|ACR[A-Za-z]|AzSe|APIM|AIoT|AZFu|ACS|AZDO)[A-Za-z0-9+/]{4,40}={0,2}"
        r"(?![A-Za-z0-9+/=])",
        r"[A-Za-z0-9+/]{36}(?:AStA?|ACDb|ACR[A-Za-z]|AzSe|APIM|AIoT|AZFu|ACS|AZDO)[A-Za-z0-9+/]{4}",
        accept=lambda match: (
            is_mixed(match.group())
            and (chunk_length(match.group()) <= 2.75 or bool(re.fullmatch(r".{42}\+ACR\w{6}", match.group())))
        ),
        gate=r"ASt|ACDb|ACR[A-Za-z]|AzSe|APIM|AIoT|AZFu|ACS|AZDO",
    ),
    detector(  # as Jenkins writes what it encrypted
        "encrypted_secret",
        r"(?<=\{)(?:\w{1,40} )?AQAAABAAA[^{}\n]+(?=\})",
        r"AQAAABAAA",
    ),
    detector(  # the lines of a file that Ansible encrypted
        "encrypted_secret",
        r"\$ANSIBLE_VAULT;[\w.;-]{3,60}\s{1,40}(?P<value>[0-9a-f]{16,}(?:\s{1,40}[0-9a-f]{16,})*)",
        r"\$ANSIBLE_VAULT;",
        "value",
    ),
    detector("password", r"(?<![\d-])(?:\d{6}-){7}\d{6}(?![\d-])", r"(?:[0-9]{6}-){7}[0-9]{6}"),  # of BitLocker
    detector(  # what people choose when they must choose something; password2 is a field
        "password",
        rf"(?<![\w@$./-])(?:{_CHOSEN_OFTEN})[!@#$*]{{0,3}}(?![\w@$/-]|\.\w|\s?[=(\[:])",
        _CHOSEN_OFTEN,
    ),
    detector(
        "basic_auth",  # a key in the place of the user
        r"://(?P<value>[^\s:/@]{20,200})(?::(?:x-oauth-basic)?)?@",
        r"://[^\s:/@]{20,}(?::(?:x-oauth-basic)?)?@",
        "value",
        accept=lambda match: looks_random(match["value"]),
    ),
    detector(
        "basic_auth",  # a password that holds an @, which it should not, also behind an address as the user
        r"(?:(?:postgres(?:ql)?|mysql|mongodb|redis|amqps?)(?:\+\w+)?://[^\s:/@\"'<>]{0,80}|"
        r"://[^\s:/@\"'<>]{1,80}@[\w.-]{1,80}):(?P<value>[^\s/\"'<>]{1,200})@",
        r"(?:postgres|mysql|mongodb|redis|amqp)[\w+]*://|://[^\s:/@\"'<>]+@[\w.-]+:",
        "value",
        accept=_is_not_placeholder,
        gate=r"postgres|mysql|mongodb|redis|amqp|://[^\s:/@\"'<>]+@[\w.-]+:",
    ),
    detector(
        "basic_auth",
        rf"://[^\s:/@\"'<>]{{0,80}}:(?P<value>{_PASSED})@",
        rf"://[^\s:/@\"'<>]{{0,80}}:{_PASSED}@",
        "value",
        accept=_is_not_placeholder,
        gate=r"://[^\s:/@\"'<>]*:",
    ),
    detector(  # as drivers in Go take it
        "basic_auth",
        r"[\w.-]+:(?P<value>[^\s:@/\"'<>]{4,80})@(?:tcp|unix)\(",
        r"@(?:tcp|unix)\(",
        "value",
        accept=_is_not_placeholder,
    ),
    detector(
        "password_hash",
        r"\$[A-Za-z0-9][\w,-]{0,24}\$(?:[\w=,.:*@+/\\-]{1,60}\$){0,6}(?P<sum>[\w./+=*:-]{16,})|"
        r"SCRAM-SHA-\d+\$[\w./$+=:]{20,}|"
        r"pbkdf2[_:]\w+[$:][\w./$+=:-]{20,}|scrypt:[\d:]+\$[\w./$+=-]{20,}|\{S?(?:SHA|MD5|CRYPT)\d*\}[\w./$+=]{16,}|"
        r"(?<![0-9A-F])\*[0-9A-F]{40}(?![0-9A-F])|(?<![0-9A-Fa-f])[0-9A-Fa-f]{32}:[0-9A-Fa-f]{32}(?![0-9A-Fa-f])|"
        r"(?<=:)(?:[0-9A-Fa-f]{16}:[0-9A-Fa-f]{32}:[0-9A-Fa-f]{32,}|"
        r"[0-9A-Fa-f]{48}:[0-9A-Fa-f]{48}:[0-9A-Fa-f]{16})(?![0-9A-Fa-f])",
        r"\$[A-Za-z0-9][\w,-]*\$[^\s]|pbkdf2[_:]|scrypt:|"
        r"\{S?(?:SHA|MD5|CRYPT)|SCRAM-SHA|\*[0-9A-F]{40}|[0-9A-Fa-f]{32}:[0-9A-Fa-f]{32}|[0-9A-Fa-f]{48}:[0-9A-Fa-f]{48}",
        accept=lambda match: not match["sum"] or _is_random_body(match["sum"]),
    ),
)
_FILE = re.compile(r"\.[a-z][a-z0-9]{1,4}\b(?![.:(])")  # main-0a1b2c.js
HIGH_ENTROPY = detector(
    "token",
    rf"(?:(?<![A-Za-z0-9+/_.-])|(?<=\n\+))(?!(?<=\\)[nrt])(?:{_RUN})|(?<=\\[nrt])(?:{_RUN})",
    r"[A-Za-z0-9_-]{20}|[A-Za-z0-9+/]{40}",
    accept=lambda match: (
        is_high_entropy(match.group())
        and from_base64(match.group()) is None
        and not (is_hash(re.split("[-_]", match.group())[-1]) and _FILE.match(match.string, match.end()))
    ),
)
LABELLED = detector(
    "token",
    r"(?:(?:(?<![A-Za-z0-9+/_.~@-])|(?<=\n\+))(?!(?<=\\)[nrt])|(?<=\\[nrt]))[A-Za-z0-9]{1,14}+[_.~-][A-Za-z0-9+/_.~-]{14,}[A-Za-z0-9/+_-]={0,2}(?![A-Za-z0-9/=])",
    r"[_.~-][A-Za-z0-9+/_.~-]{15}",
    accept=lambda match: (
        is_labelled(match.group())
        and not re.search(r"\.[a-z]{2,6}\Z|\.prototype\.", match.group())
        and match.string[match.end() : match.end() + 1] != "("
    ),  # a file
)
BASE64_KEY = detector(  # before HIGH_ENTROPY, which would take the part of a key before its first + or /
    "token",
    r"(?:(?<![A-Za-z0-9+/_.-])(?!(?<=\\)[nrt])|(?<=\\[nrt]))[A-Za-z0-9+/]{40,}={0,2}(?![A-Za-z0-9+/_=-])",
    r"[A-Za-z0-9+/]{40}",
    accept=lambda match: (
        len(match.group()) <= _LONGEST_KEY
        and bool(re.search(r"[+=/]", match.group()))
        and is_random_token(match.group(), 3.0 if re.search(r"[+=]", match.group()) else 2.5)
        and from_base64(match.group()) is None
    ),
)
BASE64 = re.compile(  # also in the alphabet of URLs
    r"(?<![A-Za-z0-9+/_-])(?:[A-Za-z0-9+/]{60,76}\r?\n[ \t]{0,24})*(?:[A-Za-z0-9+/]{24,}|[\w-]{24,})={0,2}"
    r"(?![A-Za-z0-9+/=_-])",
    re.ASCII,
)


def tokens() -> tuple[Detector, ...]:
    """The detectors of tokens, the most telling first."""
    return (SCREENSHOT, PRIVATE_KEY, _KEY_END, _AWS_PAIR, _TWILIO_PAIR, *_TOKENS)
