"""The clients' side: the Flower ClientApp, learners, executors and client state."""

from fedkt.clients.app import KnowledgeClientApp, client_app, predict
from fedkt.clients.client import Client
from fedkt.clients.learner import Learner, TrainingOptions, Work
from fedkt.clients.server_model import LearnerServerModel
from fedkt.clients.sklearn_learner import SklearnLearner
from fedkt.clients.state import FileStore, MemoryStore
from fedkt.clients.torch_learner import TorchLearner

__all__ = [
    "Client",
    "FileStore",
    "KnowledgeClientApp",
    "Learner",
    "LearnerServerModel",
    "MemoryStore",
    "SklearnLearner",
    "TorchLearner",
    "TrainingOptions",
    "Work",
    "client_app",
    "predict",
]
