"""What holds for every property test: no deadline an example, since a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("any_machine", deadline=None)  # beside that it is hypothesis' own profile, in CI its `ci`
settings.load_profile("any_machine")
