"""Video files as streams of frames: one frame in memory at a time, nothing else of the file lost.

    with read_video("in.mp4") as video:
        frames = (frame.with_picture(clean(frame.picture())) for frame in video)
        write_video("out.mkv", frames, video)

Needs PyAV: ``pip install denoise-ext[video]``.
"""

from denoise_ext.io.video.frames import Colour, VideoFrame, windows
from denoise_ext.io.video.read import Video, VideoInfo, read_video
from denoise_ext.io.video.write import check_can_write_video, write_video

__all__ = [
    "Colour",
    "Video",
    "VideoFrame",
    "VideoInfo",
    "check_can_write_video",
    "read_video",
    "windows",
    "write_video",
]
