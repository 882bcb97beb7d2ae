from ngrpo.rewards import WorldReward
from ngrpo.types import Completion, Outcome, Prompt


def test_the_checker_sees_the_problem_without_its_template():
    seen = []

    def check(prompt, completion):
        seen.append((prompt, completion))
        return Outcome(value=1.0, correct=True)

    reward = WorldReward(check)
    framed = Prompt("0", "Q: 1,2=3: A:", (), "1+2", columns={"prompt": "1,2=3:"})
    bare = Prompt("1", "1,2=2:", (), "1*2")
    answers = [Completion((), (), "1+2", "eos"), Completion((), (), "2*1", "eos")]
    assert reward([framed, bare], answers) == [Outcome(value=1.0, correct=True)] * 2
    assert seen == [("1,2=3:", "1+2"), ("1,2=2:", "2*1")]
    assert reward.check_golds(["anything"]) == [None]
    reward.close()
