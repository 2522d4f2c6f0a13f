from typing import Any

class FAIL_REASON:
    SUCCESS: int
    QUEUE_FULL: int
    MISSING_LEADER: int
    DISCARDED: int
    NOT_LEADER: int
    LEADER_CHANGED: int
    REQUEST_DENIED: int
    UNKNOWN_OUTCOME: int

class SERIALIZER_STATE:
    NOT_SERIALIZING: int
    SERIALIZING: int
    SUCCESS: int
    FAILED: int

class SyncObjConf:
    autoTick: bool
    commandsQueueSize: int
    raftMinTimeout: float
    raftMaxTimeout: float
    appendEntriesPeriod: float
    leaderFallbackTimeout: float
    appendEntriesUseBatch: bool
    appendEntriesBatchSizeBytes: int
    logCompactionMinEntries: int
    logCompactionMinTime: float
    logCompactionBatchSize: int
    commandsWaitLeader: bool
    connectionTimeout: float
    fullDumpFile: str | None
    journalFile: str | None
    onStateChanged: Any
    onReady: Any
    dynamicMembershipChange: bool
    password: str | None
    useFork: bool
    def __init__(self, **kwargs: Any) -> None: ...
    def validate(self) -> None: ...
