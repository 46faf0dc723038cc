"""FastAPI with ONNX Runtime: `uvicorn fastapi_app:app`."""

from __future__ import annotations

from fastapi import FastAPI, HTTPException, UploadFile
from onnx_classifier import OnnxClassifier
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel

app = FastAPI()
classifier = OnnxClassifier()


class Prediction(BaseModel):
    """A label with its score."""

    label: str
    index: int
    score: float


class Answer(BaseModel):
    """The labels with the highest scores, best first."""

    predictions: list[Prediction]


@app.get("/health")
def health() -> str:
    """Say that the server is up."""
    return "ok"


@app.post("/classify")
def classify(image: UploadFile, top_k: int = 5) -> Answer:  # `def`: FastAPI runs it in a thread
    """Classify an image."""
    try:
        pixels = classifier.preprocess(Image.open(image.file))
    except (UnidentifiedImageError, OSError) as error:
        raise HTTPException(status_code=400, detail="not an image") from error
    [predictions] = classifier.predict(pixels[None], top_k)
    return Answer(predictions=[Prediction(**each) for each in predictions])
