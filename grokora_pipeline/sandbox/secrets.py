"""Fake secrets and personal data to plant in the sample: of the shape of real ones, and of no use to anybody."""

import base64
import json
import random
import string


def steps(secret: str) -> tuple[str, ...]:
    """Where a secret is typed or written in a task; a long one only if it is not repeated too often."""
    short = ("click_field type_text", "open_app type_text") if len(secret) < 36 else ()
    return ("write_file", "append_file", *short)


def plant(rng: random.Random) -> list[str]:
    """One fake of each kind, in a fixed order. Every key says FAKE; hosts, addresses and numbers are reserved ones."""

    def noise(length: int) -> str:
        """So many random letters and digits."""
        return "".join(rng.choices(string.ascii_letters + string.digits, k=length))

    # the parts of a JSON Web Token: base64url without padding
    header, claims = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "HS256", "typ": "JWT"}, {"sub": "FAKE"})
    )
    return [
        f"XAI_API_KEY=xai-FAKE{noise(44)}",
        f"password: FAKE-{noise(10)}",
        f"https://bot:FAKE{noise(12)}@vault.example.com/path",
        f"{header}.{claims}.{noise(22)}",
        f"api_key = 'FAKE{noise(28)}'".replace("'", '"'),
        f"mail anna.{noise(4).lower()}@example.org",
        f"call +1 202 555 01{rng.randint(10, 99)}",
        f"server 203.0.113.{rng.randint(2, 250)}",
        f"PINECONE_API_KEY=FAKE-{noise(8)}-{noise(4)}-{noise(4)}-{noise(12)}",
        f"DB_PASSWORD=FAKE{noise(14)}",
        f"client_secret={noise(6)}FAKE{noise(24)}",
        "/home/anna.fake/grokputer/vault",
    ]
