"""The names that rows give their device."""

from vlaprune_bench.policies.device import processor_name

ONE = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n"


def test_a_processor_is_named_with_its_family_and_model(tmp_path):
    """Virtual machines give one name to several generations."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"{ONE}\n{ONE.replace('26', '25')}")
    assert processor_name(cpuinfo) == "AMD EPYC, family 26, model 2"


def test_a_processor_without_a_model_name_still_has_one(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 243.75\n")  # as on ARM
    assert processor_name(cpuinfo) == processor_name(tmp_path / "absent")
    assert processor_name(cpuinfo)
