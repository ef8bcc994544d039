"""What a column may be about, by its name and by the form of its values. Every guess says its reason.

A guess errs on the side of the person: what may lead to somebody is dropped, hashed or kept from the model until
whoever answers for the data says otherwise.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from audit.spec.drafting.profile import Seen
from audit.spec.model import Pii

if TYPE_CHECKING:
    import polars as pl

FREE_TEXT = 40  # letters of a value on average from which text is what people write
MOST = 0.5  # share of the sampled values that must have a form
FEW = 10  # distinct values up to which a column is a category whatever its name is
PARTIAL_ROWS = 1_000  # of a sample, in which a form is looked for


@dataclass(frozen=True, slots=True)
class Personal:
    """What leads to a person, and why we think so."""

    pii: Pii
    what: str  # an e-mail address, a postcode
    reason: str


_PERSON = {
    "first", "last", "full", "given", "family", "middle", "maiden", "sur", "nick", "legal", "user", "customer",
    "client", "patient", "person", "applicant", "borrower", "contact", "owner", "holder", "employee", "member",
    "student", "guest", "passenger", "driver", "cardholder", "recipient", "sender", "author", "my", "your",
}  # fmt: skip
_SECRETS = {
    "password", "passwd", "passwort", "pwd", "passphrase", "secret", "token", "apikey", "credential", "credentials",
    "cvv", "cvc", "pin", "otp",
}  # fmt: skip
_DIRECT: dict[str, str] = (
    dict.fromkeys(("email", "emails", "mail", "emailaddress"), "an e-mail address")
    | dict.fromkeys(
        ("phone", "phones", "telephone", "tel", "mobile", "cellphone", "fax", "msisdn"), "a telephone number"
    )
    | dict.fromkeys(("iban", "bban"), "a bank account")
    | dict.fromkeys(("ssn", "nino", "passport", "taxid", "itin", "cpf", "dni"), "an identity number")
    | dict.fromkeys(("address", "addr", "street", "adresse", "strasse"), "an address")
    | dict.fromkeys(("surname", "forename", "lastname", "firstname", "fullname", "username", "nickname"), "a name")
    | dict.fromkeys(
        ("vorname", "nachname", "familienname", "nom", "prenom", "nombre", "apellido", "cognome", "naam"), "a name"
    )
    | dict.fromkeys(("telefon", "handy", "telefono", "telephon"), "a telephone number")
    | dict.fromkeys(("svnr", "steuernummer"), "an identity number")
    | dict.fromkeys(("ip", "ipaddress", "ipaddr"), "an internet address")
    | dict.fromkeys(("creditcard", "cardnumber", "pan"), "a card number")
    | dict.fromkeys(("signature", "photo", "selfie"), "a person's likeness")
)
_DIRECT_PAIRS: dict[tuple[str, str], str] = {
    ("social", "security"): "an identity number", ("national", "id"): "an identity number",
    ("tax", "id"): "an identity number", ("driver", "license"): "an identity number",
    ("license", "plate"): "a licence plate", ("credit", "card"): "a card number", ("card", "number"): "a card number",
    ("account", "number"): "a bank account", ("bank", "account"): "a bank account", ("e", "mail"): "an e-mail address",
    ("cell", "number"): "a telephone number",
}  # fmt: skip
_QUASI: dict[str, str] = (
    dict.fromkeys(
        (
            "birth",
            "dob",
            "birthdate",
            "birthday",
            "birthyear",
            "born",
            "yob",
            "geburtsdatum",
            "geburtstag",
            "geburtsjahr",
        ),
        "a date of birth",
    )
    | dict.fromkeys(("zip", "zipcode", "postcode", "postal", "postalcode", "plz"), "a postcode")
    | dict.fromkeys(("lat", "latitude", "lon", "lng", "long", "longitude"), "a place")
)
_PROTECTED: dict[str, str] = (
    dict.fromkeys(("sex", "gender", "male", "female", "geschlecht"), "sex")
    | dict.fromkeys(
        ("race", "ethnic", "ethnicity", "black", "hispanic", "hispan", "latino", "white", "asian"), "origin"
    )
    | dict.fromkeys(("nationality", "citizenship", "foreign", "foreigner", "immigrant"), "origin")
    | dict.fromkeys(("religion", "religious", "faith"), "religion")
    | dict.fromkeys(("marital", "married", "spouse", "divorced", "widowed"), "marital status")
    | dict.fromkeys(("disability", "disabled", "handicap"), "disability")
)
_WRITTEN = {
    "comment", "comments", "note", "notes", "remark", "remarks", "message", "messages", "feedback", "freetext",
    "complaint", "kommentar", "bemerkung", "notiz", "commentaire", "comentario",
}  # fmt: skip
# Words beside `name` of what is no person.
_THINGS = {
    "product", "item", "brand", "company", "store", "shop", "file", "column", "table", "city", "country", "state",
    "region", "county", "place", "school", "plan", "model", "species", "category", "campaign", "event", "device",
    "branch", "department", "project", "host", "domain", "tariff", "type", "class", "group",
}  # fmt: skip
_COLOURS = {"black", "white"}  # of people only where the column says yes or no
# Words beside `age` that leave it a person's.
_AGE = {
    "age", "group", "band", "range", "bracket", "class", "bin", "years", "year", "yrs", "in", "at", "of", "months",
    *_PERSON,
}  # fmt: skip
_ENTITIES = {
    "customer", "client", "user", "member", "patient", "account", "applicant", "borrower", "policyholder", "employee",
    "person", "subject", "household", "student", "entity", "participant", "respondent", "driver", "merchant", "device",
    "tailnum", "vin", "company", "store", "shop", "machine", "sensor", "property", "msno",
}  # fmt: skip
_KEYS = {"id", "ids", "key", "uuid", "guid", "identifier", "number", "no", "nr", "num", "ref", "reference"}
_COUNTING = {"number", "no", "nr", "num"}  # `number_of_rooms` counts, `policy_number` names
_ROW_NUMBERS = {"index", "row", "rowid", "rownum", "rowname", "rownames", "rownumber", "unnamed", "idx", "serial"}

# Words of a name that speak of when a case came up, the likeliest first; and of what comes later.
_MOMENTS = (
    "event", "decision", "application", "applied", "request", "requested", "order", "ordered", "transaction", "trans",
    "purchase", "booking", "booked", "issue", "issued", "submitted", "submission", "opened", "open", "start", "started",
    "created", "creation", "recorded", "visit", "admission", "admitted", "sale", "sold", "timestamp", "datetime",
    "date", "time", "day", "month", "at", "on", "ts", "dt",
)  # fmt: skip
_LATER = {
    "birth", "geburtsdatum", "geburtstag", "dob", "born", "birthday", "birthdate",
    "end", "ended", "closed", "close", "closing", "updated", "update",
    "modified", "changed", "expiry", "expires", "expiration", "maturity", "delivered", "delivery", "returned", "due",
    "until", "default", "defaulted", "paid", "payment", "settled", "settlement", "resolved", "discharge", "discharged",
    "death", "died", "cancelled", "canceled", "churn", "churned", "last", "finished", "completed", "arrival", "exit",
}  # fmt: skip

_FORMS: dict[str, tuple[Pii, str]] = {
    r"^[^@\s]+@[^@\s]+\.[A-Za-z]{2,}$": ("direct", "e-mail addresses"),
    r"^[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?$": ("direct", "bank accounts (IBAN)"),
    r"^(?:\d{1,3}\.){3}\d{1,3}$|^(?:[0-9a-fA-F]{0,4}:){3,7}[0-9a-fA-F]{0,4}$": ("direct", "internet addresses"),
    r"^\d{3}-\d{2}-\d{4}$": ("direct", "social security numbers"),
    r"^(?:\+\d{1,3}[ \-/.]?|\(?0\d{1,4}\)?[ \-/.])[\d \-/.()]{5,16}\d$": ("direct", "telephone numbers"),
    r"^\(?\d{3}\)?[ \-.]\d{3}[ \-.]\d{4}$": ("direct", "telephone numbers"),
    r"^https?://\S+$": ("direct", "web addresses, which may hold names and keys"),
    r"^(?:gh[pousr]_|sk-|xox[abp]-|AKIA|eyJ[A-Za-z0-9_-]{10,}\.)": ("secret", "keys to some service"),
    r"^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$": ("quasi", "UUIDs"),
}
# Two or three words with a capital each: names, or titles; of more than MANY distinct values they are taken for names.
_CAPITALS = r"^\p{Lu}[\p{L}'’-]+(?: \p{Lu}[\p{L}.'’-]*){1,2}$"
MANY = 20
# An e-mail address or telephone number amid other text.
_WITHIN = r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}|\+\d[\d \-/]{8,}\d|\b0\d{2,4}[ \-/]\d{5,}"


def words(name: str) -> list[str]:
    """`customerID` and `Customer-Id` as [customer, id]."""
    apart = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return [word for word in re.split(r"[\W_]+", re.sub(r"([A-Z])([A-Z][a-z])", r"\1 \2", apart).lower()) if word]


def personal(seen: Seen, values: "pl.Series") -> Personal | None:
    """Whether the column leads to a person or opens a door; by its name first, then by the form of `values`."""
    return _by_name(seen) or _by_form(seen, values) or _numbered(seen, values)


def protected(seen: Seen) -> str | None:
    """Which protected attribute the column's name speaks of: age, sex, origin, religion, marital status, disability."""
    said = words(seen.name)
    if "name" in said:
        return None  # the spouse's, say
    if "age" in said and set(said) <= _AGE and seen.dtype in ("integer", "float", "string"):
        return "age"
    for word in said:
        if word in _PROTECTED and (word not in _COLOURS or seen.distinct <= 2):
            return _PROTECTED[word]
    return None


def is_key(seen: Seen) -> bool:
    """Whether the column names something: called so, a text or an integer, and of many values."""
    said = words(seen.name)
    if not said or seen.dtype not in ("integer", "string") or seen.distinct < min(20, max(3, seen.sampled // 2)):
        return False
    named = bool(_ENTITIES.intersection(said)) and (seen.dtype == "string" or len(said) == 1)
    called = said[-1] in _KEYS or (said[0] in _KEYS - _COUNTING)
    counts = said[0] in _COUNTING and len(said) > 1
    return (named or called) and not counts and seen.distinct >= seen.sampled // 200


def key_rank(seen: Seen) -> tuple[bool, bool, bool]:
    """How likely the column is the entity, not the case: called after one comes first, then one that repeats."""
    said = words(seen.name)
    return (not _ENTITIES.intersection(said), seen.distinct >= seen.sampled, said[-1] not in ("id", "key"))


def numbers_rows(seen: Seen) -> str | None:
    """Why the column only numbers the rows, if it does."""
    if not seen.unique or seen.dtype != "integer" or seen.low is None or seen.high is None:
        return None
    if _ROW_NUMBERS.intersection(words(seen.name)):
        return "called a row number, and every row has another"
    if seen.low in (0, 1) and seen.high - seen.low + 1 == seen.rows:
        return f"counts the rows from {seen.low}"
    return None


def moment_rank(name: str) -> int | None:
    """How likely a date of this name is the moment of the decision, 0 being likeliest; None if it comes later."""
    said = words(name)
    if _LATER.intersection(said):
        return None
    return min((_MOMENTS.index(word) for word in said if word in _MOMENTS), default=len(_MOMENTS))


def is_birth(name: str) -> bool:
    return any(_QUASI.get(word) == "a date of birth" for word in words(name))


def is_free_text(seen: Seen, values: "pl.Series") -> bool:
    """Whether people wrote it: called so, or long, of many words, and hardly ever the same."""
    if seen.dtype != "string" or seen.distinct <= 2:
        return False
    if _WRITTEN.intersection(words(seen.name)):
        return True
    if seen.distinct <= max(FEW, seen.sampled // 20):
        return False
    text = values.drop_nulls().str.strip_chars()
    text = text.filter(text != "").head(PARTIAL_ROWS)  # what a database has for nothing written
    return bool(len(text)) and float(text.str.len_chars().mean() or 0) >= FREE_TEXT  # type: ignore[arg-type]


def _by_name(seen: Seen) -> Personal | None:
    said = words(seen.name)
    joined, pairs = "".join(said), list(pairwise(said))
    if _SECRETS.intersection((*said, joined)) and (seen.dtype == "string" or _has_many_digits(seen)):
        return Personal("secret", "a secret", "by its name")
    direct = next((_DIRECT[word] for word in (*said, joined) if word in _DIRECT), None)
    direct = direct or next((_DIRECT_PAIRS[pair] for pair in pairs if pair in _DIRECT_PAIRS), None)
    if direct is None and "name" in said and not _THINGS.intersection(said):
        direct = "a name"
    if direct and _may_be_personal(seen, direct):
        return Personal("direct", direct, "by its name")
    if quasi := next((_QUASI[word] for word in (*said, joined) if word in _QUASI), None):
        return Personal("quasi", quasi, "by its name") if _may_be_quasi(seen, quasi, said) else None
    return None


def _may_be_personal(seen: Seen, what: str) -> bool:
    """Text, or numbers of many digits; a yes or no about it, or a few kinds of it, is not the thing itself."""
    if seen.dtype == "string":
        return what == "a name" or not 2 <= seen.distinct <= FEW or seen.sampled < 10 * FEW
    return _has_many_digits(seen)


def _has_many_digits(seen: Seen) -> bool:
    return seen.dtype == "integer" and (seen.high or 0) >= 1_000_000


def _may_be_quasi(seen: Seen, what: str, said: Collection[str]) -> bool:
    if what == "a place":
        return seen.dtype in ("float", "string") and ("long" not in said or len(said) == 1)
    return seen.distinct > 2


def _by_form(seen: Seen, values: "pl.Series") -> Personal | None:
    if seen.dtype != "string" or seen.note.startswith("dates"):  # which some telephone numbers look like
        return None
    text = values.drop_nulls().head(PARTIAL_ROWS * 10).str.strip_chars()
    if text.is_empty():
        return None
    for pattern, (pii, what) in _FORMS.items():
        share = float(text.str.contains(pattern).mean() or 0)  # type: ignore[arg-type]
        if share > MOST:
            return Personal(pii, what, f"by the form of {share:.0%} of its values")
    share = float(text.str.contains(_CAPITALS).mean() or 0)  # type: ignore[arg-type]
    if share > MOST and seen.distinct > MANY:
        return Personal("direct", "what may be people's names", f"by the form of {share:.0%} of its values")
    share = float(text.str.contains(_WITHIN).mean() or 0)  # type: ignore[arg-type]
    if share:
        return Personal("direct", "text with e-mail addresses or telephone numbers in it", "by the form of some values")
    return None


def _numbered(seen: Seen, values: "pl.Series") -> Personal | None:
    """Card numbers: 13 to 19 digits whose last one fits the others (Luhn)."""
    if seen.dtype == "string":
        digits = [re.sub(r"[ -]", "", text) for text in values.drop_nulls().head(PARTIAL_ROWS)]
    elif seen.dtype == "integer" and (seen.high or 0) >= 10**12:
        digits = [str(number) for number in values.drop_nulls().head(PARTIAL_ROWS)]
    else:
        return None
    long = [text for text in digits if re.fullmatch(r"[0-9]{13,19}", text)]
    fitting = sum(map(_is_luhn, long))
    if digits and fitting > MOST * len(digits):
        share = fitting / len(digits)
        return Personal("direct", "card numbers", f"by the check digit of {share:.0%} of its values")
    return None


def _is_luhn(digits: str) -> bool:
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0


def looks_like_rows(names: Sequence[str]) -> bool:
    """Whether a header is no header but a first row: mail addresses, dates or numbers with a point stand in it."""
    value = re.compile(r"\s*-?\d+\.\d+(?:e[+-]?\d+)?\s*|[^@\s]+@[^@\s]+\.[a-z]{2,}|\d{4}-\d\d-\d\d(?:[ T].*)?", re.I)
    numbers = [name for name in names if re.fullmatch(r"\s*-?\d+\s*", name)]
    counted = any(numbers == [str(place + first) for place in range(len(numbers))] for first in (0, 1))
    return any(map(value.fullmatch, names)) or (len(numbers) > len(names) / 2 and not counted)
