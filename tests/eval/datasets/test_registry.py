import pytest

from delg.errors import UsageError
from eval.datasets import READERS, get_reader


def test_every_name_leads_to_its_reader():
    for name, (module, function) in READERS.items():
        reader = get_reader(name)
        assert reader.__name__ == function
        assert reader.__module__ == f"eval.datasets.{module}"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"'oxford'.*revisited, gldv2-retrieval"):
        get_reader("oxford")
