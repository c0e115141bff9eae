"use strict";
// What the page says, in each of its languages.

const TEXT = {
  en: {
    title: "Is the mask worn properly?",
    drop: "Drop photos here",
    choose: "or click to choose them",
    "camera-off": "The camera is off.",
    "camera-denied": "No camera: there is none, or the browser was not allowed to use it.",
    start: "Start the camera",
    stop: "Stop the camera",
    snap: "Add this picture to the table",
    photo: "Photo",
    person: "Person",
    save: "Save the table (CSV)",
    clear: "Clear",
    camera: "camera",
    mask: "Mask",
    gender: "Gender",
    age: "Age",
    values: {
      mask: ["mask worn", "mask worn incorrectly", "no mask"],
      gender: ["male", "female"],
      age: ["under 30", "30 to 59", "60 and over"],
    },
    noface: "No face found: the whole photo was classified.",
    failed: "cannot be read",
    waiting: "there is no model yet",
    busy: "classifying…",
    nomodel:
      "There is no model yet. Train the small sample model in a terminal (about two minutes); " +
      "this page then uses it:\nsh train.sh --name sample",
    drawn:
      "This model was trained on synthetic faces only; " +
      "on photos of people its predictions mean nothing.",
    lost: "The program behind this page has stopped. Start it again: sh demo.sh",
    use:
      "The mask state is visible in a photo; gender and age are estimated from looks and are " +
      "often wrong. Do not use them to decide what a person is allowed, offered or charged. " +
      "Ask the people in the photos first.",
    private:
      "Photos and camera pictures stay on this machine and are forgotten after the prediction.",
  },
  ko: {
    title: "마스크를 올바르게 썼나요?",
    drop: "사진을 여기에 놓으세요",
    choose: "또는 눌러서 고르세요",
    "camera-off": "카메라가 꺼져 있습니다.",
    "camera-denied": "카메라를 쓸 수 없습니다. 카메라가 없거나 브라우저에서 허용되지 않았습니다.",
    start: "카메라 켜기",
    stop: "카메라 끄기",
    snap: "이 장면을 표에 추가",
    photo: "사진",
    person: "사람",
    save: "표 저장 (CSV)",
    clear: "지우기",
    camera: "카메라",
    mask: "마스크",
    gender: "성별",
    age: "나이",
    values: {
      mask: ["올바르게 착용", "잘못 착용", "미착용"],
      gender: ["남성", "여성"],
      age: ["30세 미만", "30~59세", "60세 이상"],
    },
    noface: "얼굴을 찾지 못해 사진 전체를 분류했습니다.",
    failed: "읽을 수 없습니다",
    waiting: "아직 모델이 없습니다",
    busy: "분류하는 중…",
    nomodel:
      "아직 모델이 없습니다. 터미널에서 작은 샘플 모델을 학습하면(약 2분) 이 페이지에서 바로 쓸 수 있습니다:\n" +
      "sh train.sh --name sample",
    drawn: "이 모델은 합성 얼굴로만 학습되어 실제 사진에 대한 예측은 의미가 없습니다.",
    lost: "이 페이지를 띄운 프로그램이 멈췄습니다. 다시 시작하세요: sh demo.sh",
    use:
      "마스크 상태는 사진에서 보이지만, 성별과 나이는 겉모습으로 추정한 것이며 자주 틀립니다. " +
      "이 결과로 출입, 서비스, 요금을 정하지 마세요. 사진 속 사람의 동의를 먼저 받으세요.",
    private: "사진과 카메라 화면은 이 컴퓨터를 벗어나지 않으며 예측 후 남지 않습니다.",
  },
};
