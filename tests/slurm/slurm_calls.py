"""What array tasks call; without other imports, because the job's Python has only this folder."""


def squared(number: int) -> int:
    if number == 5:
        raise ValueError("five is refused")
    return number * number
