"""`nowcart alerts`: spikes become alerts, and alerts reach people. A small Faust application around a pure core.

consume     the Faust application: reads committed spikes, and keeps the time; the only module that knows faust and aiokafka
silences    which spikes nobody is told of          (pure)
book        spikes in, alert records out            (pure)
ledger      what the book knows, in a topic of its own: one transaction for it and for what follows from it
letters     requests to webhooks: how they are signed, and what an answer means    (pure)
post        sends them, and tells Alertmanager
desk        puts all of that together
"""
