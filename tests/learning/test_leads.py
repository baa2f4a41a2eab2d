import pytest

from flctl.learning import leads

IN_ORDER = ["MLII", "ECG lead II", "ECG1", "V5", "Lead 1", "aVR"]


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["I", "II", "III", "AVR", "V1"], "II"),
        (["V5", "mlii"], "mlii"),
        (["RESP", "ECG"], "ECG"),
        (["ABP", "ecg_2", "PLETH"], "ecg_2"),
        (["V1", "ECG lead V5"], "ECG lead V5"),
        (["DI", "DII"], "DII"),
        (["ECG I", "ECG I filtered"], "ECG I"),
        (["Resp (sum)", "EEG (C4-A1)", "ECGII"], "ECGII"),
        *((IN_ORDER[at:], name) for at, name in enumerate(IN_ORDER)),
    ],
)
def test_the_lead_most_like_mlii_is_taken(names, taken):
    """By its name, in any case and with the usual additions, wherever it stands."""
    for order in (names, names[::-1]):
        at = leads.best(order)
        assert leads.rank(order[at]) == leads.rank(taken)


@pytest.mark.parametrize(
    "name",
    ["RESP", "ABP", "PLETH", "EEG (C4-A1)", "ECG-derived resp", "CO2", "SpO2", "ch1", "", None,
     "signal 0", "ART", "EMG", "Resp. Imp.", "ECG SQI", "ECG quality", "ECG status", "ECG lead off",
     "SQI_II", "ECG_valid", "V5 quality", "AS", "heart rate ECG"],
)  # fmt: skip
def test_what_is_not_named_as_an_ecg_is_never_taken(name):
    """Respiration, pressures, other electrodes, and names that say nothing."""
    assert leads.best([name]) is None


def test_a_person_may_name_a_lead_freely():
    """Its name in any case, another name of it, or its number."""
    there = ["ECG lead I", "ECG lead II", "ch3"]
    assert [leads.find(name, there) for name in ("ii", "DII", "ecg LEAD ii", "2", "CH3")] == [
        1, 1, 1, 1, 2,
    ]  # fmt: skip
    assert leads.find("V5", there) is None
    assert leads.find("4", there) is None


def test_units_are_known_in_any_spelling():
    """None for what is no voltage."""
    assert [leads.millivolts(u) for u in ("mV", "MV", "uV", "µV", "V")] == [1, 1, 1e-3, 1e-3, 1e3]
    assert [leads.millivolts(u) for u in ("NU", "mmHg", "", None)] == [None] * 4
