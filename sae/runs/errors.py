"""What a user can mend, from either package: the two may not import each other."""

import activation_cache
from sae.errors import InputError

BAD_INPUT = (InputError, activation_cache.InputError)
